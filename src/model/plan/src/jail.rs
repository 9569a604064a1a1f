//! The complete plan of one jail.

use crate::capability::CapabilitySet;
use crate::control::{Control, controls};
use crate::disk::DiskPlan;
use crate::landlock::{Domain, TooOld};
use crate::lending;
use crate::mount::{Link, Mount, confinement, table};
use crate::seed::{Seed, seeds};
use bailiwick_policy::{Host, Mail, Tenant};
use bailiwick_types::{
    Access, Bound, Hierarchy, HostFacts, HostSocketName, IdRange, LimitKey, LimitValue, Limits, Nesting, NetworkMode,
    Profile, QuotaFacts, Resource, TenantName,
};
use std::collections::BTreeSet;

/// A resource limit that each process of a jail has (`getrlimit(2)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rlimit {
    /// Open descriptors.
    OpenFiles(u64),
    /// No core dump and no crash handler. At a limit of exactly 1 byte the kernel writes no file and starts no handler
    /// of the host; at 0 it starts the handler (`core(5)`).
    NoCore,
}

/// The limit of core dumps of every process of a tenant, in bytes. See [`Rlimit::NoCore`].
pub const CORE_LIMIT: u64 = 1;

impl Rlimit {
    /// The value of the limit. It is the soft and the hard limit.
    #[must_use]
    pub fn value(self) -> u64 {
        match self {
            Self::OpenFiles(count) => count,
            Self::NoCore => CORE_LIMIT,
        }
    }
}

/// The resource limits of each process of a jail.
#[must_use]
pub fn rlimits(limits: &Limits) -> Vec<Rlimit> {
    vec![Rlimit::OpenFiles(limits.open_files), Rlimit::NoCore]
}

/// The `oom_score_adj` of each process of a jail. With it the kernel kills processes of tenants before daemons of the
/// host. No process inside can lower it.
pub const OOM_SCORE: i32 = 500;

/// What a jail should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JailPlan {
    /// The tenant.
    pub tenant: TenantName,
    /// Its host ids. The first is the host id of id 0 inside.
    pub ids: IdRange,
    /// The jail's access to the tenant's storage.
    pub access: Access,
    /// The profile that confines it.
    pub profile: Profile,
    /// Whether users inside may make user namespaces.
    pub nesting: Nesting,
    /// Its host name.
    pub hostname: String,
    /// The first content of the tenant's storage.
    pub seeds: Vec<Seed>,
    /// The rows of its mount table, in order.
    pub mounts: Vec<Mount>,
    /// The links in its root.
    pub links: Vec<Link>,
    /// What is lent to it ([`lending::names`]).
    pub host_sockets: BTreeSet<HostSocketName>,
    /// The mail that it may send; `None` for none.
    pub mail: Option<Mail>,
    /// Whether it has a network beside its loopback.
    pub network: NetworkMode,
    /// Its bounding set of capabilities.
    pub capabilities: CapabilitySet,
    /// Whether `no_new_privs` is set, so that set-user-id programs have no effect.
    pub no_new_privs: bool,
    /// Its Landlock domain.
    pub landlock: Domain,
    /// Its limits, as files of control groups.
    pub controls: Vec<Control>,
    /// Its disk quota.
    pub disk: DiskPlan,
    /// The resource limits of each process.
    pub rlimits: Vec<Rlimit>,
}

/// Why this host cannot have the declared jail.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The tenant is suspended and no door stays open, so no jail should run.
    #[error("tenant \"{0}\" is suspended")]
    Suspended(TenantName),
    /// Landlock is too old.
    #[error(transparent)]
    Landlock(#[from] TooOld),
    /// There is no such image.
    #[error("there is no image \"{0}\"; the only one is \"host\"")]
    Image(String),
    /// A limit that the operator requires cannot be enforced.
    #[error(
        "limit \"{} = {}\" cannot be enforced on this host ({}), and bailiwick.toml requires \"{resource}\"; \
         see `bailiwick doctor`, or take \"{resource}\" out of `require`",
        .0.key, .0.key.in_words(.0.declared), .0.why, resource = .0.key.resource()
    )]
    Nominal(NominalLimit),
    /// The host's root is not laid out as a merged `/usr`.
    #[error("the host's /{0} is not a link into /usr; the image \"host\" needs a merged /usr")]
    NotMerged(&'static str),
}

impl JailPlan {
    /// The plan of a tenant's jail on this host.
    ///
    /// # Errors
    /// When the tenant is suspended, or this host lacks a wall, the image or a required limit. Then the tenant must not
    /// start.
    pub fn new(tenant: &Tenant, host: &Host, ids: IdRange, facts: &HostFacts) -> Result<Self, PlanError> {
        let Held { access, profile, landlock, controls } = hold(tenant, host, facts)?;
        let settings = &tenant.settings;
        let limits = &settings.limits;
        let (mounts, mut links) = table(settings.profile, access, limits, facts);
        // A suspended tenant runs nothing that could use one.
        let is_lent = access == Access::ReadWrite;
        if is_lent {
            links.extend(lending::links(settings, host));
        }
        Ok(Self {
            tenant: tenant.name.clone(),
            ids,
            access,
            profile,
            nesting: settings.nesting,
            hostname: tenant.name.to_string(),
            seeds: seeds(tenant, &facts.host_etc, &facts.root_links),
            mounts,
            links,
            host_sockets: if is_lent { lending::names(settings) } else { BTreeSet::new() },
            mail: settings.mail.filter(|_| is_lent),
            network: if is_lent { settings.network.mode } else { NetworkMode::None },
            capabilities: CapabilitySet::of(profile),
            no_new_privs: profile == Profile::Web,
            landlock,
            controls,
            disk: DiskPlan::new(limits, facts),
            rlimits: rlimits(limits),
        })
    }
}

/// The walls and limits that a plan checks.
struct Held {
    access: Access,
    profile: Profile,
    landlock: Domain,
    controls: Vec<Control>,
}

fn hold(tenant: &Tenant, host: &Host, facts: &HostFacts) -> Result<Held, PlanError> {
    let settings = &tenant.settings;
    if settings.image.as_str() != "host" {
        return Err(PlanError::Image(settings.image.to_string()));
    }
    for name in ["bin", "sbin", "lib"] {
        if !facts.root_links.contains_key(name) {
            return Err(PlanError::NotMerged(name));
        }
    }
    let access = tenant.access().ok_or_else(|| PlanError::Suspended(tenant.name.clone()))?;
    let controls = controls(&settings.limits, facts);
    for nominal in nominal(tenant, &controls, facts) {
        if host.require.contains(&nominal.key.resource()) {
            return Err(PlanError::Nominal(nominal));
        }
    }
    // The domain uses the tenant's declared profile, because its rules name paths of that profile's root.
    let landlock = Domain::of(settings.profile, facts.landlock_abi)?;
    Ok(Held { access, profile: confinement(settings.profile, access), landlock, controls })
}

/// Whether this host can have the jail that the policy declares for a tenant.
///
/// # Errors
/// The same as of [`JailPlan::new`].
pub fn check(tenant: &Tenant, host: &Host, facts: &HostFacts) -> Result<(), PlanError> {
    hold(tenant, host, facts).map(drop)
}

/// A declared limit that this host does not enforce.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NominalLimit {
    /// Which limit.
    pub key: LimitKey,
    /// The declared value.
    pub declared: LimitValue,
    /// Why this host does not enforce it.
    pub why: String,
}

/// The declared limits of a tenant that this host does not enforce.
#[must_use]
pub fn nominal(tenant: &Tenant, controls: &[Control], facts: &HostFacts) -> Vec<NominalLimit> {
    let limits = &tenant.settings.limits;
    let lacking = controls.iter().filter(|control| control.place.is_none());
    let mut rows: Vec<NominalLimit> = lacking
        .map(|control| NominalLimit {
            key: control.key,
            declared: control.declared,
            why: match (control.key.resource(), control.key.controller()) {
                (Resource::Io, _) => why_no_io(control.key, facts),
                (_, controller) => {
                    format!("the {} controller has no such limit here", controller.unwrap_or_default())
                }
            },
        })
        .collect();
    let mut add = |key, declared: LimitValue, why: &str| rows.push(NominalLimit { key, declared, why: why.to_owned() });
    match &facts.storage.quota {
        QuotaFacts::Projects => {}
        QuotaFacts::Groups => {
            add(LimitKey::Inodes, limits.inodes.into(), "btrfs does not count inodes of a tenant");
            if let Bound::At(pair) = limits.disk
                && pair.soft != pair.hard
            {
                let why = format!("btrfs knows no soft limit; write one value, disk = \"{}\"", pair.hard);
                add(LimitKey::DiskSoft, pair.soft.into(), &why);
            }
        }
        QuotaFacts::Nothing { why, .. } => {
            add(LimitKey::Disk, limits.disk.into(), why);
            add(LimitKey::Inodes, limits.inodes.into(), why);
        }
    }
    rows.retain(|row| row.declared != LimitValue::Unlimited);
    rows
}

fn why_no_io(key: LimitKey, facts: &HostFacts) -> String {
    let text = match facts.controller("io") {
        None => "no hierarchy of control groups has the controller io",
        Some(Hierarchy::V1) => "version 1 of the controller does not charge what goes through the page cache",
        Some(Hierarchy::Unified) if facts.storage.devices.is_empty() => "the state directory is on no block device",
        Some(Hierarchy::Unified) if key == LimitKey::IoWeight => {
            "its block device is shared by weight only with the scheduler bfq or with io.cost.qos"
        }
        Some(Hierarchy::Unified) => "the io controller has no such limit here",
    };
    text.to_owned()
}
