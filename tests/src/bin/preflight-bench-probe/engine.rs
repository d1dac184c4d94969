//! The engine as an agent has it: one thread, default deadlines, the agent's own guard with a policy, a rate (out of reach).

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::Path;
use std::rc::Rc;

use preflight_agent::policy::{ControllerPorts, Policy};
use preflight_agent::prober::HostGuard;
use preflight_core::observation::{Outcome, Report};
use preflight_core::spec::ProbeSpec;
use preflight_probe::{Engine, EngineOptions};
use preflight_tests::bench::{Done, Job, Kind};
use tokio::runtime::Builder;
use tokio::task::LocalSet;

use crate::Started;

pub(crate) fn run(job: &Job) -> Done {
    let policy = Policy::read(Path::new(&job.policy)).expect("the policy that the bench wrote");
    let guard = HostGuard::new(policy);
    let controller = ["10.255.0.1".parse().expect("an address")];
    guard.controller_is_at(ControllerPorts::new(controller, 7444, None));
    let rate = NonZeroU32::new(1_000_000);
    let engine = Engine::new(EngineOptions { max_concurrent: job.max_concurrent, max_per_second: rate });
    let world = Rc::new(World {
        engine: engine.expect("an engine"),
        guard,
        specs: specs(job),
        begun: Cell::new(0),
        probes: job.probes,
        ends: RefCell::default(),
    });
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let tasks = LocalSet::new();
    for _ in 0..job.at_once {
        tasks.spawn_local(world.clone().work());
    }
    let started = Started::now();
    runtime.block_on(tasks);
    let ends = world.ends.take();
    started.done(ends)
}

/// What the tasks share.
struct World {
    engine: Engine,
    guard: HostGuard,
    specs: Vec<ProbeSpec>,
    begun: Cell<usize>,
    probes: usize,
    ends: RefCell<BTreeMap<String, usize>>,
}

impl World {
    /// Probe after probe, until enough are begun.
    async fn work(self: Rc<Self>) {
        loop {
            let index = self.begun.get();
            if index == self.probes {
                return;
            }
            self.begun.set(index + 1);
            let spec = &self.specs[index % self.specs.len()];
            let report = self.engine.probe(spec, &self.guard).await;
            self.count(&report);
        }
    }

    fn count(&self, report: &Report) {
        let end = match report.observations.as_slice() {
            [one] if one.outcome == Outcome::Ok && one.proof.is_some() => "ok",
            [one] => one.outcome.reason().unwrap_or("no proof"),
            _ => "not one observation",
        };
        let mut ends = self.ends.borrow_mut();
        if let Some(count) = ends.get_mut(end) {
            *count += 1;
        } else {
            ends.insert(end.to_owned(), 1);
        }
    }
}

fn specs(job: &Job) -> Vec<ProbeSpec> {
    let spec = |target| {
        let target = format!("{}://{target}", job.kind.scheme()).parse().expect("a target");
        let mut spec = ProbeSpec::new(target);
        if job.kind == Kind::Tls {
            spec.tls.ca_pem = Some(job.ca_pem.clone());
            spec.tls.server_name = Some(job.server_name.clone());
        }
        spec
    };
    job.targets.iter().map(spec).collect()
}
