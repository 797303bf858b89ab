//! The example configuration is what operators copy: it must be accepted, with and without its
//! optional settings, and must not keep a setting secret.

use std::path::Path;

use hostd::config::{Config, ConfigError};

const EXAMPLE: &str = include_str!("../hostd.example.toml");

/// Every table of the file, with the line that opens it.
const TABLES: [(&str, &str); 8] = [
    ("the file", ""),
    ("class", "[[class]]"),
    ("network", "[[network]]"),
    ("vm", "[[vm]]"),
    ("libvirt", "[libvirt]"),
    ("quota", "[quota]"),
    ("principal", "[[principal]]"),
    ("timeouts", "[timeouts]"),
];

fn load(text: &str) -> Result<Config, ConfigError> {
    let file = tempfile::NamedTempFile::new().expect("a temporary file can be made");
    std::fs::write(file.path(), text).expect("a temporary file can be written");
    Config::load(file.path())
}

/// The example with every setting switched on.
fn everything_on() -> String {
    let is_setting = |rest: &str| rest.starts_with(|first: char| first != ' ');
    let switched_on = |line: &'static str| match line.strip_prefix('#') {
        Some(setting) if is_setting(setting) => setting,
        _ => line,
    };
    EXAMPLE
        .lines()
        .map(switched_on)
        .collect::<Vec<_>>()
        .join("\n")
}

/// The keys of a table, as the parser lists them when it meets one that it does not know.
fn keys_of(table: &str) -> Vec<String> {
    let Err(ConfigError::Syntax { cause, .. }) = load(&format!("{table}\nno_such_key = 1\n"))
    else {
        panic!("{table} takes every key");
    };
    let message = cause.message().to_owned();
    let (_, expected) = message.split_once("expected").expect("the keys are listed");
    let quoted = expected.split('`').skip(1).step_by(2);
    quoted.map(str::to_owned).collect()
}

#[test]
fn the_example_is_accepted_as_it_is() {
    let config = load(EXAMPLE).unwrap();

    assert_eq!(config.socket, Path::new("/run/nicferry/hostd.sock"));
    assert_eq!(config.libvirt_uri.as_deref(), Some("qemu:///system"));
    assert!(config.qmp_vms.is_empty(), "{:?}", config.qmp_vms);
}

#[test]
fn the_example_is_accepted_with_every_setting_switched_on() {
    let config = load(&everything_on()).unwrap();

    assert_eq!(config.qmp_vms.len(), 1);
    assert_eq!(config.ports.len(), 2);
    assert_eq!(config.tenants_by_uid.len(), 1);
}

#[test]
fn what_the_example_calls_the_default_is_the_default() {
    let (plain, full) = (load(EXAMPLE).unwrap(), load(&everything_on()).unwrap());

    assert_eq!(plain.socket_mode, full.socket_mode);
    assert_eq!(plain.socket, full.socket);
    assert_eq!(plain.journal, full.journal);
    assert_eq!(plain.patience, full.patience);
}

#[test]
fn every_key_is_in_the_example() {
    let example = everything_on();
    for (name, table) in TABLES {
        let keys = keys_of(table);
        assert!(!keys.is_empty(), "{name}");
        for key in keys {
            let is_setting = example.lines().any(|line| {
                line.starts_with(&format!("{key} = "))
                    || line == format!("[{key}]")
                    || line == format!("[[{key}]]")
            });
            assert!(is_setting, "{name}: {key} is not in the example");
        }
    }
}
