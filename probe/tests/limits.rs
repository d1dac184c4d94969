//! A process without descriptors. Alone in its file, since the limit is the whole process's.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::{Server, spec};
use futures_util::future::join_all;
use preflight_core::observation::Outcome;
use preflight_core::reason::{Short, Void};
use preflight_core::spec::Millis;
use preflight_probe::{AllowAll, Engine, EngineOptions};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

#[tokio::test]
async fn want_of_descriptors_is_blamed_on_this_host() {
    // In a process of its own, which keeps its descriptors.
    let server = Server::redis(&[]);
    let before = getrlimit(Resource::Nofile);
    let open = u64::try_from(std::fs::read_dir("/proc/self/fd").unwrap().count()).unwrap();
    for free in 0..4 {
        for target in ["tcp://127.0.0.1", "tcp://localhost", "redis://127.0.0.1", "tls://127.0.0.1"] {
            let mut spec = spec(&format!("{target}:{}", server.port));
            spec.timeout = Millis(200);
            // A new engine each time: it has asked for no route and read no store yet.
            let engine = Engine::new(EngineOptions::default()).unwrap();
            setrlimit(Resource::Nofile, Rlimit { current: Some(open + free), ..before }).unwrap();
            let reports = join_all((0..20).map(|_| engine.probe(&spec, &AllowAll))).await;
            setrlimit(Resource::Nofile, before).unwrap();
            let outcomes: Vec<Outcome> = reports.iter().map(|report| report.outcome(&spec)).collect();
            let here = Outcome::Void(Void::LocalResources);
            assert!(outcomes.contains(&here), "{target} with {free}: {outcomes:?}");
            // Those that got a descriptor met Redis, which is silent to TLS; nobody is told that there is no way to it.
            let truth = if target.starts_with("tls") { Outcome::Short(Short::TlsTimeout) } else { Outcome::Ok };
            assert!(outcomes.iter().all(|o| *o == here || *o == truth), "{target} with {free}: {outcomes:?}");
        }
    }
}
