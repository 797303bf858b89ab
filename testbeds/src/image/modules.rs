//! The few kernel modules a guest needs, in the order in which they can be loaded.
//!
//! A module names what it depends on in its own `.modinfo` section (`depends=a,b`), so nothing but
//! the unpacked kernel package is asked: no `depmod`, whose index a Debian package does not carry.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::process::Command;

use crate::command;

/// What a guest loads: the virtio transport and its devices, and what stands between a container
/// and its network in the traditional way (veth and a bridge), as the peer in measurements.
const WANTED: [&str; 6] = [
    "virtio_pci",
    "virtio_console",
    "virtio_net",
    "veth",
    "bridge",
    "af_packet",
];

/// Decompressing one module.
const DEADLINE: Duration = Duration::from_secs(30);

/// One kernel module, uncompressed.
#[derive(Debug)]
pub(super) struct Module {
    /// Without `.ko`, with underscores.
    pub(super) name: String,
    /// The ELF object.
    pub(super) content: Vec<u8>,
}

/// The wanted modules and everything they need, each after what it depends on. What the kernel has
/// built in is left out.
///
/// # Errors
/// When a module is neither there nor built in, or cannot be read.
pub(super) async fn in_load_order(roots: &[PathBuf]) -> Result<Vec<Module>> {
    let available = Available::scan(roots)?;
    let mut loaded = BTreeSet::new();
    let mut ordered = Vec::new();
    // A stack of names to load; a name is loaded once all it depends on is.
    let mut stack: Vec<(String, Option<Module>)> = WANTED
        .iter()
        .rev()
        .map(|name| ((*name).to_owned(), None))
        .collect();
    while let Some((name, read)) = stack.pop() {
        if let Some(module) = read {
            ordered.push(module);
        } else if loaded.insert(name.clone())
            && let Some(module) = available.read(&name).await?
        {
            let needed = depends(&module.content);
            stack.push((name, Some(module)));
            stack.extend(needed.into_iter().rev().map(|needed| (needed, None)));
        }
    }
    Ok(ordered)
}

/// Every module of a kernel: where its file is, or that it is built in.
struct Available {
    files: BTreeMap<String, PathBuf>,
    built_in: BTreeSet<String>,
}

impl Available {
    fn scan(roots: &[PathBuf]) -> Result<Self> {
        let mut files = BTreeMap::new();
        let mut built_in = BTreeSet::new();
        for root in roots {
            for directory in ["lib/modules", "usr/lib/modules"] {
                collect(&root.join(directory), &mut files, &mut built_in)?;
            }
        }
        Ok(Self { files, built_in })
    }

    /// The module's content, or nothing if it is built in.
    async fn read(&self, name: &str) -> Result<Option<Module>> {
        let Some(file) = self.files.get(name) else {
            if self.built_in.contains(name) {
                return Ok(None);
            }
            bail!("the kernel package has no module {name}");
        };
        let content = decompressed(file)
            .await
            .with_context(|| format!("reading {}", file.display()))?;
        let name = name.to_owned();
        Ok(Some(Module { name, content }))
    }
}

fn collect(
    directory: &Path,
    files: &mut BTreeMap<String, PathBuf>,
    built_in: &mut BTreeSet<String>,
) -> Result<()> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Ok(());
    };
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() && !path.is_symlink() {
            collect(&path, files, built_in)?;
        } else if path
            .file_name()
            .is_some_and(|name| name == "modules.builtin")
        {
            built_in.extend(fs::read_to_string(&path)?.lines().filter_map(module_name));
        } else if let Some(name) = path.to_str().and_then(module_name) {
            files.insert(name, path);
        }
    }
    Ok(())
}

/// `kernel/drivers/char/hw_random/virtio-rng.ko.zst` is the module `virtio_rng`.
fn module_name(path: &str) -> Option<String> {
    let (name, _) = path.rsplit('/').next()?.split_once(".ko")?;
    Some(name.replace('-', "_"))
}

async fn decompressed(file: &Path) -> Result<Vec<u8>> {
    let program = match file.extension().and_then(|ending| ending.to_str()) {
        Some("ko") => return Ok(fs::read(file)?),
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => bail!("unknown compression"),
    };
    let work = tempfile::tempdir()?;
    let copy = work
        .path()
        .join(file.file_name().context("a module has a file name")?);
    fs::copy(file, &copy)?;
    command::succeed(
        Command::new(program).args(["-q", "-d"]).arg(&copy),
        DEADLINE,
    )
    .await?;
    Ok(fs::read(copy.with_extension(""))?)
}

/// The names after `depends=` in `.modinfo`, a section of NUL-terminated `key=value` texts.
fn depends(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(start) = module.windows(KEY.len()).position(|window| window == KEY) else {
        return Vec::new();
    };
    let value = module[start + KEY.len()..].split(|byte| *byte == 0).next();
    String::from_utf8_lossy(value.unwrap_or_default())
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(modules: &[(&str, &str)], built_in: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("lib/modules/6.1/kernel");
        fs::create_dir_all(&directory).unwrap();
        for (name, depends) in modules {
            let content = format!("ELF\0alias=x\0depends={depends}\0name={name}\0");
            fs::write(directory.join(format!("{name}.ko")), content).unwrap();
        }
        fs::write(directory.with_file_name("modules.builtin"), built_in).unwrap();
        root
    }

    async fn order(root: &tempfile::TempDir) -> Result<Vec<String>> {
        let modules = in_load_order(&[root.path().to_owned()]).await?;
        Ok(modules.into_iter().map(|module| module.name).collect())
    }

    #[tokio::test]
    async fn a_module_is_loaded_after_all_it_depends_on() {
        let root = kernel(
            &[
                ("virtio", "virtio_ring"),
                ("virtio_ring", ""),
                ("virtio_pci", "virtio,virtio_ring"),
                ("virtio_net", "virtio,net-failover"),
                ("net-failover", ""),
            ],
            "kernel/veth.ko\nkernel/bridge.ko\nkernel/af_packet.ko\n\
             kernel/virtio_console.ko\n",
        );

        let order = order(&root).await.unwrap();

        let modules = [
            "virtio_ring",
            "virtio",
            "virtio_pci",
            "net_failover",
            "virtio_net",
        ];
        assert_eq!(order, modules);
    }

    #[tokio::test]
    async fn a_kernel_without_a_wanted_module_is_refused() {
        let root = kernel(&[("virtio_pci", "")], "");

        let error = order(&root).await.unwrap_err().to_string();

        assert_eq!(error, "the kernel package has no module virtio_console");
    }
}
