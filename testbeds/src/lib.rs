//! Scenarios as code, each run in every world that can.

pub mod accelerator;
pub mod build;
pub mod cache;
pub mod command;
pub mod guest;
pub mod image;
pub mod netns;
pub mod qemu;
pub mod vm;
