//! The inits of the host. Every request to an init goes through here, so only its own tenant waits for a silent init.

use crate::init_client::{self, InitError};
use crate::init_health::InitHealth;
use crate::sync::ASKED_AT_ONCE;
use crate::tenants::Tenants;
use bailiwick_types::{IdRange, Observed, TenantName};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::task::JoinSet;

/// The inits of the host.
#[derive(Debug)]
pub(crate) struct Inits {
    tenants: Arc<Tenants>,
    pub(crate) health: InitHealth,
}

impl Inits {
    pub(crate) fn new(tenants: Arc<Tenants>) -> Self {
        Self { tenants, health: InitHealth::default() }
    }

    /// Runs `talk` with the init of a tenant, unless that init was silent just before. Records whether it answered.
    pub(crate) async fn talk<T>(
        &self,
        tenant: &TenantName,
        talk: impl Future<Output = Result<T, InitError>>,
    ) -> Result<T, InitError> {
        self.health.may_ask(tenant)?;
        let result = talk.await;
        self.note_answer(tenant, result.as_ref().err(), false);
        result
    }

    pub(crate) fn note_answer(&self, tenant: &TenantName, error: Option<&InitError>, is_certain: bool) {
        match error {
            None | Some(InitError::Refused) => self.health.answered(tenant),
            Some(InitError::Down) => self.health.forget(tenant),
            // The init was not asked.
            Some(InitError::Own(_)) => {}
            // An invalid reply counts as no reply.
            Some(InitError::Silent | InitError::Broken(_)) => self.health.did_not_answer(tenant, is_certain),
        }
    }

    /// Adds to each observed tenant what only a process inside can find out. Several inits are asked at once, so a
    /// silent one delays few others.
    pub(crate) async fn ask_inits(self: &Arc<Self>, all: &mut [Observed]) {
        let mut asked = JoinSet::new();
        let mut waiting: Vec<(usize, TenantName, PathBuf, IdRange)> = Vec::new();
        for (index, observed) in all.iter().enumerate() {
            if let (Some(jail), Some(ids)) = (&observed.jail, observed.ids)
                && !jail.frozen
            {
                let socket = self.tenants.init_socket(&observed.tenant, jail.access);
                waiting.push((index, observed.tenant.clone(), socket, ids));
            }
        }
        let mut answered = Vec::new();
        while !waiting.is_empty() || !asked.is_empty() {
            while asked.len() < ASKED_AT_ONCE
                && let Some((index, tenant, socket, ids)) = waiting.pop()
            {
                let inits = Arc::clone(self);
                asked.spawn(async move {
                    (index, inits.talk(&tenant, init_client::canary_denied(&socket, ids)).await.ok())
                });
            }
            answered.extend(asked.join_next().await.and_then(Result::ok));
        }
        for (index, denied) in answered {
            if let Some(jail) = &mut all[index].jail {
                jail.landlock_denies_canary = denied;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake;
    use std::io;

    #[tokio::test]
    async fn what_we_cannot_ask_is_not_silent() {
        let (_temp, services) = fake::host();
        let inits = Inits::new(Arc::clone(&services.tenants));
        let alice = "alice".parse::<TenantName>().expect("a name");
        let want = || io::Error::from_raw_os_error(rustix::io::Errno::MFILE.raw_os_error());
        let talk = inits.talk(&alice, async { Err::<(), _>(InitError::from(want())) });
        assert!(matches!(talk.await, Err(InitError::Own(_))));
        assert!(inits.health.may_ask(&alice).is_ok());
        // The same error does not count as a reply either.
        inits.health.did_not_answer(&alice, true);
        inits.note_answer(&alice, Some(&InitError::from(want())), true);
        assert!(inits.health.silent_for(&alice).is_some());
    }
}
