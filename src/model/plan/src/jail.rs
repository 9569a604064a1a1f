//! The whole plan of one jail.

use crate::capability::CapabilitySet;
use crate::control::{Control, controls};
use crate::disk::DiskPlan;
use crate::landlock::{Domain, TooOld};
use crate::mount::{Link, Mount, confinement, table};
use crate::seed::{Seed, seeds};
use bailiwick_policy::{Host, Tenant};
use bailiwick_types::{
    Access, Bound, Hierarchy, HostFacts, IdRange, LimitKey, LimitValue, Limits, Profile, QuotaFacts, Resource,
    TenantName,
};

/// A resource limit of every process (`getrlimit(2)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rlimit {
    /// Open descriptors.
    OpenFiles(u64),
    /// No core dumps and no crash handler. At a limit of exactly 1 byte the kernel writes no file and starts no handler of the
    /// host; at 0 it starts the handler (`core(5)`).
    NoCore,
}

/// The limit of core dumps of every process of a tenant, in bytes: [`Rlimit::NoCore`].
pub const CORE_LIMIT: u64 = 1;

impl Rlimit {
    /// The most that a process of a jail may have: soft and hard.
    #[must_use]
    pub fn value(self) -> u64 {
        match self {
            Self::OpenFiles(count) => count,
            Self::NoCore => CORE_LIMIT,
        }
    }
}

/// The limits of each process of a jail.
#[must_use]
pub fn rlimits(limits: &Limits) -> Vec<Rlimit> {
    vec![Rlimit::OpenFiles(limits.open_files), Rlimit::NoCore]
}

/// `oom_score_adj` of each process of a jail: the kernel kills a tenant's processes before the host's daemons. Nobody inside can
/// lower it.
pub const OOM_SCORE: i32 = 500;

/// What a jail should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JailPlan {
    /// Whose.
    pub tenant: TenantName,
    /// Its ids; id 0 inside is the first.
    pub ids: IdRange,
    /// How it holds the tenant's storage.
    pub access: Access,
    /// The profile that confines it.
    pub profile: Profile,
    /// Its host name.
    pub hostname: String,
    /// The first content of its storage.
    pub seeds: Vec<Seed>,
    /// Its mount table, in order.
    pub mounts: Vec<Mount>,
    /// Links in the fresh root.
    pub links: Vec<Link>,
    /// Its bounding set.
    pub capabilities: CapabilitySet,
    /// Whether set-user-id programs have no effect.
    pub no_new_privs: bool,
    /// Its Landlock domain.
    pub landlock: Domain,
    /// Its limits.
    pub controls: Vec<Control>,
    /// Its disk quota.
    pub disk: DiskPlan,
    /// Limits of each process.
    pub rlimits: Vec<Rlimit>,
}

/// Why this host cannot have the jail that the policy declares.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// No jail is to run.
    #[error("tenant \"{0}\" is suspended")]
    Suspended(TenantName),
    /// Landlock is too old.
    #[error(transparent)]
    Landlock(#[from] TooOld),
    /// The image is not there.
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
    /// The plan of a tenant on this host.
    ///
    /// # Errors
    /// When a wall or a required limit cannot be put up: the tenant must not start.
    pub fn new(tenant: &Tenant, host: &Host, ids: IdRange, facts: &HostFacts) -> Result<Self, PlanError> {
        let Held { access, profile, landlock, controls } = hold(tenant, host, facts)?;
        let settings = &tenant.settings;
        let limits = &settings.limits;
        let (mounts, links) = table(settings.profile, access, limits, facts);
        Ok(Self {
            tenant: tenant.name.clone(),
            ids,
            access,
            profile,
            hostname: tenant.name.to_string(),
            seeds: seeds(tenant, &facts.host_etc, &facts.root_links),
            mounts,
            links,
            capabilities: CapabilitySet::of(profile),
            no_new_privs: profile == Profile::Web,
            landlock,
            controls,
            disk: DiskPlan::new(limits, facts),
            rlimits: rlimits(limits),
        })
    }
}

/// What a tenant is held by.
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
    // The tenant's own profile: the rules name what its root contains.
    let landlock = Domain::of(settings.profile, facts.landlock_abi)?;
    Ok(Held { access, profile: confinement(settings.profile, access), landlock, controls })
}

/// Whether this host can have the jail that the policy declares for a tenant.
///
/// # Errors
/// When a wall or a required limit cannot be put up: the tenant must not start.
pub fn check(tenant: &Tenant, host: &Host, facts: &HostFacts) -> Result<(), PlanError> {
    hold(tenant, host, facts).map(drop)
}

/// A declared limit that this host does not enforce.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NominalLimit {
    /// Which limit.
    pub key: LimitKey,
    /// Its value.
    pub declared: LimitValue,
    /// Why not.
    pub why: String,
}

/// The declared limits that nothing on this host enforces.
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
                add(LimitKey::DiskSoft, pair.soft.into(), "btrfs knows no soft limit");
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
