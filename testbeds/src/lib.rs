//! Scenarios as code, each run in every world that can.

pub mod accelerator;
pub mod bed;
pub mod bench;
pub mod build;
pub mod cache;
pub mod command;
pub mod guest;
pub mod host;
pub mod hostd;
pub mod image;
pub mod inspection;
pub mod leak;
pub mod netns;
pub mod qemu;
pub mod qmp;
pub mod report;
pub mod requests;
pub mod scenario;
pub mod site;
pub mod vm;
pub mod world;
