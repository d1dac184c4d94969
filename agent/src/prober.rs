//! The port to the probe engine, and the engine behind it with this host's policy.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use preflight_core::observation::Report;
use preflight_core::spec::ProbeSpec;
use preflight_probe::{Engine, EngineError, EngineOptions, Guard};

use crate::limits::Limits;
use crate::policy::{ControllerPorts, Policy};

/// What carries out a probe.
pub trait Prober: Send + Sync + 'static {
    /// Probes a target. Ends by itself; dropping it ends it at once.
    fn probe(&self, spec: &ProbeSpec) -> impl Future<Output = Report> + Send;
}

/// The policy, with where the controller is now.
#[derive(Debug)]
pub struct HostGuard {
    policy: Policy,
    controller: RwLock<ControllerPorts>,
}

impl HostGuard {
    /// Guards by `policy`.
    pub fn new(policy: Policy) -> Self {
        Self { policy, controller: RwLock::default() }
    }

    /// Notes where the controller is, which may change from one connection to the next.
    pub fn controller_is_at(&self, ports: ControllerPorts) {
        *self.controller.write().unwrap_or_else(PoisonError::into_inner) = ports;
    }

    /// Notes the ports that the controller says it listens on.
    pub fn controller_listens_on(&self, ports: impl IntoIterator<Item = u16>) {
        self.controller.write().unwrap_or_else(PoisonError::into_inner).add(ports);
    }
}

impl Guard for HostGuard {
    fn allows(&self, address: SocketAddr) -> bool {
        self.policy.allows(address, &self.controller.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn may_use(&self, file: &Path, address: SocketAddr) -> bool {
        self.policy.may_use(file, address)
    }
}

/// The probe engine under this host's policy.
#[derive(Debug)]
pub struct LocalProber {
    engine: Engine,
    guard: Arc<HostGuard>,
}

impl LocalProber {
    /// An engine with the policy's ceilings, as far as this process's descriptors go.
    pub fn new(guard: Arc<HostGuard>, limits: Limits) -> Result<Self, EngineError> {
        let options = EngineOptions {
            max_concurrent: limits.at_once as usize,
            max_per_second: NonZeroU32::new(guard.policy.max_per_second),
        };
        Ok(Self { engine: Engine::new(options)?, guard })
    }

    /// An engine of their own for the control targets, which must not wait for others' places.
    pub fn of_controls(guard: Arc<HostGuard>, limits: Limits) -> Result<Self, EngineError> {
        let options = EngineOptions { max_concurrent: limits.controls.max(1) as usize, max_per_second: None };
        Ok(Self { engine: Engine::new(options)?, guard })
    }
}

impl Prober for LocalProber {
    fn probe(&self, spec: &ProbeSpec) -> impl Future<Output = Report> + Send {
        self.engine.probe(spec, &*self.guard)
    }
}
