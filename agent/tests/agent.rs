//! An agent's life against a controller of the same protocol: real TLS on loopback, a prober that says what it was asked.

#![expect(clippy::unwrap_used, clippy::expect_used, unreachable_pub, reason = "tests and their helpers")]

mod controller;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use controller::{Authority, Face, PATIENCE, Running};
use preflight_agent::address::ControllerAddress;
use preflight_agent::enrol::{EnrolError, enrol};
use preflight_agent::identity::{Identity, Sources};
use preflight_agent::life::{Agent, StartError, live};
use preflight_agent::policy::Policy;
use preflight_agent::prober::{HostGuard, Prober};
use preflight_agent::runs::Runs;
use preflight_agent::state::StateDir;
use preflight_core::observation::{Control, Observation, Outcome, Phases, Proof, Report, Routes};
use preflight_core::spec::ProbeSpec;
use preflight_proto::agent::{Acknowledge, Ask, Cancel, Probe, from_agent, to_agent};
use preflight_proto::convert::AgentReport;
use rcgen::{ExtendedKeyUsagePurpose, SanType};
use tempfile::TempDir;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic::Status;

/// Counts, and answers when it may.
#[derive(Clone)]
struct Counting {
    begun: Arc<AtomicUsize>,
    dropped: Arc<AtomicUsize>,
    may_answer: Arc<Semaphore>,
}

impl Prober for Counting {
    async fn probe(&self, spec: &ProbeSpec) -> Report {
        struct OnDrop<'a>(&'a AtomicUsize);
        impl Drop for OnDrop<'_> {
            fn drop(&mut self) {
                self.0.fetch_add(1, Ordering::SeqCst);
            }
        }
        let nth = self.begun.fetch_add(1, Ordering::SeqCst);
        let unfinished = OnDrop(&self.dropped);
        self.may_answer.acquire().await.unwrap().forget();
        std::mem::forget(unfinished);
        let observation = Observation {
            address: Some(([10, 0, 0, 1], spec.target.port).into()),
            member: None,
            outcome: Outcome::Ok,
            proof: Some(Proof::Connected),
            phases: Phases { connect_ms: Some(f64::from(u32::try_from(nth).unwrap())), ..Phases::default() },
            note: None,
            detail: None,
            tls: None,
            attempts: vec![],
        };
        Report {
            observations: vec![observation],
            resolved: 1,
            routes: Routes { ipv4: true, ipv6: false },
            control: Control::Unanswered,
            members: 0,
            egress: false,
        }
    }
}

/// A host with an agent.
struct Host {
    dir: TempDir,
    prober: Counting,
    stop: watch::Sender<bool>,
    life: JoinHandle<Result<(), StartError>>,
}

const STATE: &str = "state/identity.pem";

impl Host {
    fn start(controller: &Running) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("token"), controller.authority.token() + "\n").unwrap();
        Self::start_in(dir, controller, "this machine")
    }

    fn start_in(dir: TempDir, controller: &Running, machine: &str) -> Self {
        let prober =
            Counting { begun: Arc::default(), dropped: Arc::default(), may_answer: Arc::new(Semaphore::new(1000)) };
        let nowhere = ([127, 0, 0, 1], 1).into();
        let added = vec!["security_group=sg-web".parse().unwrap()];
        let identity = Identity::new(Sources { imds: nowhere, podinfo: dir.path().into(), added });
        let identity = Arc::new(identity);
        let agent = Agent {
            controller: address(controller),
            token_file: dir.path().join("token"),
            state: StateDir::open(&dir.path().join("state"), machine.into()).unwrap(),
            identity: identity.clone(),
            guard: Arc::new(HostGuard::new(Policy::default())),
            runs: Runs::new(prober.clone(), identity, 100),
            metrics: Arc::default(),
        };
        let (stop, stopped) = watch::channel(false);
        let life = tokio::spawn(live(agent, stopped));
        Self { dir, prober, stop, life }
    }

    async fn stop(self) -> TempDir {
        self.stop.send_replace(true);
        timeout(Duration::from_secs(3), self.life).await.expect("it stops in time").unwrap().unwrap();
        self.dir
    }
}

fn address(controller: &Running) -> ControllerAddress {
    format!("https://{}", controller.address).parse().unwrap()
}

async fn controller() -> Running {
    Running::start(Arc::new(Authority::new()), Face::default()).await
}

fn ask(run: &str, cells: &[&str]) -> to_agent::Message {
    let spec = ProbeSpec::new("tcp://db.internal:5432".parse().unwrap());
    let probe = |cell: &&str| Probe {
        cell: (*cell).into(),
        region: "eu".into(),
        spec: Some((&spec).into()),
        start_after_ms: 0,
    };
    to_agent::Message::Ask(Ask { run: run.into(), release: "v2".into(), probes: cells.iter().map(probe).collect() })
}

fn acknowledge(run: &str, cell: &str) -> to_agent::Message {
    to_agent::Message::Acknowledge(Acknowledge { run: run.into(), cell: cell.into(), more: Vec::new() })
}

#[tokio::test]
async fn from_a_join_token_to_a_report() {
    let mut controller = controller().await;
    let host = Host::start(&controller);
    let (mut stream, hello) = controller.stream().await;
    assert_eq!(controller.seen.lock().unwrap().tokens, [controller.authority.token()]);
    assert_eq!(hello.version, env!("CARGO_PKG_VERSION"));
    assert_eq!(hello.instance.len(), 32);

    let file = host.dir.path().join(STATE);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(file.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);

    stream.send(ask("r1", &["c1"])).await;
    let report = AgentReport::try_from(stream.report().await).unwrap();
    assert_eq!((report.run.as_str(), report.cell.0.as_str()), ("r1", "c1"));
    assert_eq!((report.region.as_str(), report.release.as_str()), ("eu", "v2"));
    assert_eq!(report.identity.key().0, "security_group=sg-web");
    assert!(report.identity.0["address"].contains("127.0.0.1"), "the source address towards the controller");
    host.stop().await;
}

#[tokio::test]
async fn asking_twice_repeats_the_answer_and_not_the_probe() {
    let mut controller = controller().await;
    let host = Host::start(&controller);
    let (mut stream, _) = controller.stream().await;
    stream.send(ask("r1", &["c1"])).await;
    let first = stream.report().await;
    stream.send(acknowledge("r1", "c1")).await;
    stream.send(ask("r1", &["c1"])).await;
    assert_eq!(stream.report().await, first);
    stream.send(ask("r2", &["c1"])).await;
    assert_ne!(stream.report().await.observations, first.observations, "another run is another question");
    assert_eq!(host.prober.begun.load(Ordering::SeqCst), 2);
    host.stop().await;
}

#[tokio::test]
async fn what_was_not_acknowledged_is_sent_again_after_a_reconnect() {
    let mut controller = controller().await;
    let host = Host::start(&controller);
    let (mut stream, first_hello) = controller.stream().await;
    stream.send(ask("r1", &["c1", "c2", "c3", "c4"])).await;
    let reports = [stream.report().await, stream.report().await, stream.report().await, stream.report().await];
    stream.send(acknowledge("r1", &reports[0].cell)).await;
    let more = vec![reports[3].cell.clone()];
    let together = Acknowledge { run: "r1".into(), cell: reports[2].cell.clone(), more };
    stream.send(to_agent::Message::Acknowledge(together)).await;
    // Asked for, so that the acknowledgement is known to have arrived before the stream breaks.
    stream.send(ask("r2", &["c5"])).await;
    let last = stream.report().await;
    drop(stream);

    let (mut stream, hello) = controller.stream().await;
    assert_eq!(hello.instance, first_hello.instance, "the same process");
    assert_eq!([stream.report().await, stream.report().await], [reports[1].clone(), last]);
    assert_eq!(host.prober.begun.load(Ordering::SeqCst), 5);
    host.stop().await;
}

#[tokio::test]
async fn a_probe_outlives_the_stream_that_asked_for_it() {
    let mut controller = controller().await;
    let host = Host::start(&controller);
    host.prober.may_answer.forget_permits(1000);
    let (stream, _) = controller.stream().await;
    stream.send(ask("r1", &["c1"])).await;
    let begun = || host.prober.begun.load(Ordering::SeqCst);
    timeout(PATIENCE, async {
        while begun() == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    drop(stream);
    let (mut stream, _) = controller.stream().await;
    host.prober.may_answer.add_permits(1);
    assert_eq!(stream.report().await.cell, "c1");
    host.stop().await;
}

#[tokio::test]
async fn a_cancelled_run_is_stopped() {
    let mut controller = controller().await;
    let host = Host::start(&controller);
    host.prober.may_answer.forget_permits(1000);
    let (mut stream, _) = controller.stream().await;
    stream.send(ask("r1", &["c1", "c2"])).await;
    stream.send(ask("r2", &["c3"])).await;
    let begun = || host.prober.begun.load(Ordering::SeqCst);
    timeout(PATIENCE, async {
        while begun() < 3 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    stream.send(to_agent::Message::Cancel(Cancel { run: "r1".into() })).await;
    let dropped = || host.prober.dropped.load(Ordering::SeqCst);
    timeout(PATIENCE, async {
        while dropped() < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    host.prober.may_answer.add_permits(3);
    assert_eq!(stream.report().await.cell, "c3");
    assert_eq!(dropped(), 2);
    host.stop().await;
}

#[tokio::test]
async fn a_probe_that_this_agent_does_not_know_is_void() {
    let mut controller = controller().await;
    let host = Host::start(&controller);
    let (mut stream, _) = controller.stream().await;
    let mut spec = preflight_proto::agent::ProbeSpec::from(&ProbeSpec::new("tcp://x:1".parse().unwrap()));
    spec.target = "gopher://x:70".into();
    let probe = Probe { cell: "c1".into(), region: "eu".into(), spec: Some(spec), start_after_ms: 0 };
    stream.send(to_agent::Message::Ask(Ask { run: "r".into(), release: "v".into(), probes: vec![probe] })).await;
    let report = stream.report().await;
    assert_eq!(report.observations[0].outcome, "void");
    assert!(report.observations[0].detail().contains("cannot probe this"), "{report:?}");
    host.stop().await;
}

#[tokio::test]
async fn it_says_goodbye_when_it_is_told_to_stop() {
    let mut controller = controller().await;
    let host = Host::start(&controller);
    let (mut stream, _) = controller.stream().await;
    let begin = Instant::now();
    let stopping = tokio::spawn(host.stop());
    assert!(matches!(stream.next().await, Some(from_agent::Message::Goodbye(_))));
    assert_eq!(stream.next().await, None, "and then nothing");
    drop(stream);
    stopping.await.unwrap();
    assert!(begin.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn it_stops_while_nobody_is_there() {
    let authority = Arc::new(Authority::new());
    let gone = Running::start(authority, Face::default()).await;
    let host = Host::start(&gone);
    // Before the agent's task has had its first turn.
    drop(gone);
    host.stop().await;
}

/// Enrols against a controller with that face, and with a token of `authority`.
async fn enrol_with(face: Face, token_of: Option<&Authority>) -> (Running, Result<(), EnrolError>) {
    let controller = Running::start(Arc::new(Authority::new()), face).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    fs::write(&file, token_of.unwrap_or(&controller.authority).token()).unwrap();
    let outcome = enrol(&address(&controller), &file).await.map(drop);
    (controller, outcome)
}

#[tokio::test]
async fn a_server_of_another_authority_gets_no_token() {
    let (mut controller, outcome) = enrol_with(Face::default(), Some(&Authority::new())).await;
    let error = outcome.unwrap_err().to_string();
    assert!(error.contains("does not come from the authority that the join token names"), "{error}");
    // The handshake failed, so not one byte of application data can have been read.
    assert!(!controller.handshake().await);
    let seen = controller.seen.lock().unwrap();
    assert!(seen.tokens.is_empty(), "{seen:?}");
}

#[tokio::test]
async fn a_server_that_cannot_show_itself_gets_no_token() {
    let other_name = SanType::DnsName("other.internal".try_into().unwrap());
    for (face, says) in [
        (Face { name: other_name, ..Face::default() }, "not valid for"),
        (Face { usage: ExtendedKeyUsagePurpose::ClientAuth, ..Face::default() }, "extended key usage"),
        (Face { sends_root: false, ..Face::default() }, "does not come from the authority"),
    ] {
        let (mut controller, outcome) = enrol_with(face, None).await;
        let error = outcome.unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
        assert!(!controller.handshake().await);
        assert!(controller.seen.lock().unwrap().tokens.is_empty());
    }
    let (_, outcome) = enrol_with(Face::default(), None).await;
    outcome.unwrap();
}

#[tokio::test]
async fn it_renews_with_a_new_key_and_comes_back_with_it() {
    let mut controller = controller().await;
    controller.script.lock().unwrap().renew_after_s = Some(0);
    let host = Host::start(&controller);
    let (first, first_hello) = controller.stream().await;
    controller.script.lock().unwrap().renew_after_s = None;
    let before = fs::read(host.dir.path().join(STATE)).unwrap();

    let (second, hello) = controller.stream().await;
    assert_eq!(controller.seen.lock().unwrap().renewals, 1);
    assert_ne!(first.certificate, second.certificate);
    assert_eq!(first_hello.instance, hello.instance);
    assert!(first.outgoing.is_closed());
    assert_ne!(fs::read(host.dir.path().join(STATE)).unwrap(), before);

    // And from the state directory alone, without a token.
    let dir = host.stop().await;
    fs::remove_file(dir.path().join("token")).unwrap();
    drop(second);
    let host = Host::start_in(dir, &controller, "this machine");
    let (third, hello) = controller.stream().await;
    assert_ne!(hello.instance, first_hello.instance, "another process");
    assert_eq!(controller.seen.lock().unwrap().tokens.len(), 1);
    drop(third);
    host.stop().await;
}

#[tokio::test]
async fn a_revoked_agent_enrols_anew() {
    let mut controller = controller().await;
    controller.script.lock().unwrap().refuse_connect.push_back(Status::permission_denied("revoked: key stolen"));
    let host = Host::start(&controller);
    let (_stream, _) = controller.stream().await;
    assert_eq!(controller.seen.lock().unwrap().tokens.len(), 2);
    host.stop().await;
}

#[tokio::test]
async fn a_revoked_agent_without_a_token_keeps_its_certificate_and_tries_it_again() {
    let mut controller = controller().await;
    let host = Host::start(&controller);
    let (first, _) = controller.stream().await;
    fs::remove_file(host.dir.path().join("token")).unwrap();
    controller.script.lock().unwrap().refuse_connect.push_back(Status::permission_denied("superseded"));
    let certificate = first.certificate.clone();
    drop(first);
    let (second, _) = controller.stream().await;
    assert_eq!(second.certificate, certificate);
    assert_eq!(controller.seen.lock().unwrap().tokens.len(), 1);
    drop(second);
    host.stop().await;
}

#[tokio::test]
async fn an_expired_certificate_is_replaced() {
    let mut controller = controller().await;
    controller.script.lock().unwrap().lives_s.push_back(-60);
    let host = Host::start(&controller);
    let (_stream, _) = controller.stream().await;
    assert_eq!(controller.seen.lock().unwrap().tokens.len(), 2);
    host.stop().await;
}

#[tokio::test]
async fn a_copied_state_directory_enrols_anew() {
    let mut controller = controller().await;
    let host = Host::start(&controller);
    let (stream, _) = controller.stream().await;
    let dir = host.stop().await;
    let copied = fs::read(dir.path().join(STATE)).unwrap();
    let host = Host::start_in(dir, &controller, "another machine");
    let (other, _) = controller.stream().await;
    assert_ne!(stream.certificate, other.certificate);
    assert_eq!(controller.seen.lock().unwrap().tokens.len(), 2);
    let aside = host.dir.path().join("state/identity.pem.another-machine");
    assert_eq!(fs::read(aside).unwrap(), copied);
    host.stop().await;
}

#[tokio::test]
async fn another_authority_is_believed_only_if_the_token_names_it() {
    let mut first = controller().await;
    let host = Host::start(&first);
    let (stream, _) = first.stream().await;
    let dir = host.stop().await;
    drop(stream);

    // The token still names the first: the second gets neither certificate nor token.
    let mut second = controller().await;
    let host = Host::start_in(dir, &second, "this machine");
    assert!(!second.handshake().await && !second.handshake().await);
    assert!(second.seen.lock().unwrap().tokens.is_empty());
    let dir = host.stop().await;

    fs::write(dir.path().join("token"), second.authority.token()).unwrap();
    let host = Host::start_in(dir, &second, "this machine");
    let (_stream, _) = second.stream().await;
    host.stop().await;
}

#[test]
fn wrong_usage_is_64_and_says_what_to_write() {
    let run = |args: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_preflight-agent")).args(args).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned(), output.stdout)
    };
    let dir = tempfile::tempdir().unwrap();
    let policy = dir.path().join("policy.toml");
    fs::write(&policy, "max_concurrent = 64\n[[alow]]\n").unwrap();
    let policy = policy.to_str().unwrap();
    let common = ["run", "--state-dir", Path::new("/nonexistent").to_str().unwrap(), "--join-token-file", "t"];
    let with = |more: &[&'static str]| [&common[..], more].concat();
    for (args, says) in [
        (vec![], "Usage"),
        (with(&[]), "--controller"),
        (with(&["--controller", "http://x"]), "https://host:port"),
        (with(&["--controller", "https://x", "--identity", "sg"]), "KEY=VALUE"),
    ] {
        let (code, stderr, _) = run(&args);
        assert_eq!(code, Some(64), "{args:?}: {stderr}");
        assert!(stderr.contains(says), "{args:?}: {stderr}");
    }
    let (code, stderr, _) = run(&[&with(&["--controller", "https://x", "--policy"])[..], &[policy]].concat());
    assert_eq!(code, Some(64), "{stderr}");
    assert!(stderr.contains("policy.toml:2:3: unknown field `alow`"), "{stderr}");
    let gone = [&with(&["--controller", "https://x", "--policy"])[..], &["/nonexistent/policy.toml"]].concat();
    let (code, stderr, _) = run(&gone);
    assert_eq!(code, Some(64), "{stderr}");
    assert!(stderr.contains("/nonexistent/policy.toml cannot be read"), "{stderr}");
    let (code, _, stdout) = run(&["run", "--help"]);
    assert_eq!(code, Some(0));
    assert!(String::from_utf8_lossy(&stdout).contains("Example:"));
}

#[test]
fn without_a_certificate_and_a_join_token_it_ends_and_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let (state, token) = (dir.path().join("state"), dir.path().join("token"));
    let run = || {
        let mut agent = std::process::Command::new(env!("CARGO_BIN_EXE_preflight-agent"));
        agent.args(["run", "--controller", "https://127.0.0.1:1"]).arg("--state-dir").arg(&state);
        let output = agent.arg("--join-token-file").arg(&token).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, stderr) = run();
    assert_eq!(code, Some(1), "{stderr}");
    assert!(
        stderr.contains("token cannot be read: No such file") && stderr.contains("preflight token join"),
        "{stderr}"
    );
    fs::write(&token, "password").unwrap();
    let (code, stderr) = run();
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("holds no join token") && !stderr.contains("password"), "{stderr}");
}
