//! The workspace as tidy needs it: members, edges, licences. Plain data made once from
//! `cargo metadata`, so that the rules over it are tested on a handful of hand-made packages.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};

use crate::process;

/// Every package of the build on this machine, members and others.
#[derive(Debug, Default)]
pub(crate) struct Workspace {
    pub(crate) members: Vec<Member>,
    /// What each package, by name and version, needs to run: normal dependencies only.
    pub(crate) normal_edges: BTreeMap<String, BTreeSet<String>>,
    pub(crate) licences: Vec<LicensedPackage>,
}

/// One package of this repository.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) name: String,
    /// Folder relative to the root, `hostd/journal`.
    pub(crate) folder: String,
    /// Names of the members it depends on, in any way: normal, build and dev.
    pub(crate) uses: BTreeSet<String>,
}

impl Member {
    pub(crate) fn manifest(&self) -> String {
        format!("{}/Cargo.toml", self.folder)
    }

    /// The first folder of the path: the program the package belongs to.
    pub(crate) fn directory(&self) -> &str {
        self.folder.split('/').next().unwrap_or_default()
    }

    pub(crate) fn last_folder(&self) -> &str {
        self.folder.rsplit('/').next().unwrap_or_default()
    }
}

/// A package that is linked into, or builds, one of our programs.
#[derive(Debug, Clone)]
pub(crate) struct LicensedPackage {
    pub(crate) name: String,
    pub(crate) version: String,
    /// The SPDX expression of its manifest.
    pub(crate) licence: Option<String>,
}

impl Workspace {
    /// Asks cargo. Packages of other platforms are left out: they are neither built nor shipped.
    pub(crate) fn load() -> anyhow::Result<Self> {
        let metadata = MetadataCommand::new()
            .current_dir(process::root()?)
            .other_options(["--filter-platform".to_owned(), host_triple()?])
            .exec()
            .context("cannot read the workspace")?;
        Ok(Self::from_metadata(&metadata))
    }

    fn from_metadata(metadata: &Metadata) -> Self {
        let members = metadata.workspace_packages();
        let names = members
            .iter()
            .map(|package| package.name.to_string())
            .collect();
        Self {
            members: members
                .iter()
                .map(|member| describe(metadata, member, &names))
                .collect(),
            normal_edges: normal_edges(metadata),
            licences: metadata.packages.iter().map(licensed).collect(),
        }
    }

    /// The key of a member in `normal_edges`.
    pub(crate) fn key(&self, member: &str) -> Option<&str> {
        let prefix = format!("{member} ");
        self.normal_edges
            .keys()
            .map(String::as_str)
            .find(|key| key.starts_with(&prefix))
    }
}

/// The triple of the machine we build on, and therefore of the programs we build.
pub(crate) fn host_triple() -> anyhow::Result<String> {
    let version = process::output(process::command("rustc")?.arg("-vV"))?;
    let triple = version.lines().find_map(|line| line.strip_prefix("host: "));
    triple
        .map(str::to_owned)
        .context("`rustc -vV` names no host")
}

fn describe(metadata: &Metadata, package: &Package, members: &BTreeSet<String>) -> Member {
    let folder = package
        .manifest_path
        .parent()
        .and_then(|folder| folder.strip_prefix(&metadata.workspace_root).ok());
    let uses = package
        .dependencies
        .iter()
        .map(|dependency| dependency.name.clone());
    Member {
        name: package.name.to_string(),
        folder: folder.map(ToString::to_string).unwrap_or_default(),
        uses: uses.filter(|name| members.contains(name)).collect(),
    }
}

fn normal_edges(metadata: &Metadata) -> BTreeMap<String, BTreeSet<String>> {
    let nodes = metadata
        .resolve
        .as_ref()
        .map(|resolve| resolve.nodes.as_slice());
    let edges_of = |node: &cargo_metadata::Node| {
        let normal = node.deps.iter().filter(|dependency| {
            dependency
                .dep_kinds
                .iter()
                .any(|kind| kind.kind == DependencyKind::Normal)
        });
        normal
            .map(|dependency| key_of(&metadata[&dependency.pkg]))
            .collect()
    };
    let nodes = nodes.unwrap_or_default().iter();
    nodes
        .map(|node| (key_of(&metadata[&node.id]), edges_of(node)))
        .collect()
}

fn key_of(package: &Package) -> String {
    format!("{} {}", package.name, package.version)
}

fn licensed(package: &Package) -> LicensedPackage {
    LicensedPackage {
        name: package.name.to_string(),
        version: package.version.to_string(),
        licence: package.license.clone(),
    }
}
