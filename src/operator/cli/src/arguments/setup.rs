//! The options of `setup` and `pool`.

use super::Format;
use bailiwick_setup::{DoorChoice, FileSystemChoice, GrowTo, PoolChoice, PoolSize};
use bailiwick_types::{PlanName, TenantName};
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// The options of `setup`.
#[derive(Debug, Args)]
pub(crate) struct SetupOptions {
    /// Where the tenants' disk is: auto, file, device:DEV, here (the state directory as it is) or none; default: auto
    #[arg(long, value_name = "WHERE")]
    pub(crate) pool: Option<PoolChoice>,
    /// Size of a pool file: a share of what is free below /var/lib, or a size such as 50G; default: 60%
    #[arg(long, value_name = "SIZE")]
    pub(crate) size: Option<PoolSize>,
    /// File system of the pool: auto, xfs or ext4; default: auto, which is XFS where it can be had
    #[arg(long, value_name = "TYPE")]
    pub(crate) fs: Option<FileSystemChoice>,
    /// Doors to wire to the host's servers: ssh, sftp, ftp, web; default: ssh and sftp if sshd is installed
    #[arg(long, value_name = "DOORS", value_delimiter = ',')]
    pub(crate) doors: Vec<DoorChoice>,
    /// Also create this tenant, and prove that its disk limit holds
    #[arg(long, value_name = "TENANT")]
    pub(crate) first: Option<TenantName>,
    /// With --first: a file of public keys that may log in
    #[arg(long, value_name = "FILE")]
    pub(crate) ssh_key: Option<PathBuf>,
    /// With --first: the plan of the tenant
    #[arg(long, value_name = "PLAN", default_value = "small")]
    pub(crate) plan: PlanName,
    /// Read options that are not given from this file of TOML
    #[arg(long, value_name = "FILE")]
    pub(crate) answers: Option<PathBuf>,
    /// Do it without asking
    #[arg(long)]
    pub(crate) yes: bool,
    /// Print the plan, and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Take back all that setup did; refused while there are tenants, and when a file has changed since
    #[arg(long, conflicts_with_all = ["pool", "size", "fs", "doors", "first", "ssh_key", "answers"])]
    pub(crate) undo: bool,
    #[command(flatten)]
    pub(crate) format: Format,
}

/// A command about the tenants' disk.
#[derive(Debug, Subcommand)]
pub(crate) enum PoolCommand {
    /// Show the disk of the tenants: its size, its file, and what is wrong with it
    Show {
        #[command(flatten)]
        format: Format,
    },
    /// Make the pool file larger while tenants run
    Grow {
        /// The new size, such as 80G, or how much more, such as +10G
        #[arg(value_name = "SIZE")]
        size: GrowTo,
        #[command(flatten)]
        format: Format,
    },
}
