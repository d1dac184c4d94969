use std::sync::atomic::{AtomicUsize, Ordering};

use crate::fit::void;

use super::*;

/// Answers after a while with one outcome, that of its turn.
#[derive(Debug, Clone)]
struct Script {
    answers: Arc<Vec<(Duration, Outcome)>>,
    asked: Arc<AtomicUsize>,
    ended: Arc<AtomicUsize>,
}

impl Script {
    fn new(answers: &[(u64, Outcome)]) -> Self {
        let answers = answers.iter().map(|(ms, outcome)| (Duration::from_millis(*ms), *outcome)).collect();
        Self { answers: Arc::new(answers), asked: Arc::default(), ended: Arc::default() }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Prober for Script {
    async fn probe(&self, spec: &ProbeSpec) -> Report {
        let turn = self.asked.fetch_add(1, Ordering::SeqCst);
        let (after, outcome) = self.answers[turn.min(self.answers.len() - 1)];
        sleep(after).await;
        self.ended.fetch_add(1, Ordering::SeqCst);
        let mut report = void(Void::Cancelled, "what was seen");
        report.observations[0].outcome = outcome;
        report.observations[0].proof = Some(spec.require);
        report.observations[0].address = Some(([10, 0, 0, 1], 1).into());
        report.routes.ipv4 = true;
        report
    }
}

const SILENT: Outcome = Outcome::Short(Short::ConnectTimeout);
const REFUSED: Outcome = Outcome::Short(Short::ConnectRefused);
const EXPIRED: Outcome = Outcome::Short(Short::TlsExpired);
const STARVED: Outcome = Outcome::Void(Void::LocalResources);

fn spec() -> ProbeSpec {
    ProbeSpec::new("tcp://10.0.0.1:1".parse().unwrap())
}

fn controlled(target: &Script, control: &Script, controls: usize) -> Controlled<Script, Script> {
    let targets = (0..controls).map(|n| format!("tcp://10.0.0.{n}:53").parse().unwrap());
    Controlled::new(target.clone(), control.clone(), targets.collect::<Vec<_>>())
}

/// One probe, what it came to and how many milliseconds it took.
async fn probed(controlled: &Controlled<Script, Script>) -> (Observation, u128) {
    let begin = Instant::now();
    let report = controlled.probe(&spec()).await;
    (report.observations[0].clone(), begin.elapsed().as_millis())
}

#[tokio::test(start_paused = true)]
async fn only_a_good_control_shows_that_the_network_works() {
    for (controls, egress) in
        [(vec![(1, Outcome::Ok)], true), (vec![(1, STARVED)], false), (vec![(1, REFUSED)], false), (vec![], false)]
    {
        let control = Script::new(&controls);
        let report = controlled(&Script::new(&[(1000, SILENT)]), &control, controls.len()).probe(&spec()).await;
        assert_eq!(report.egress, egress, "{controls:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_target_is_blamed_only_where_a_control_is_good() {
    for (target, controls, want) in [
        (SILENT, vec![(1000, SILENT)], Some("control_failed")),
        (SILENT, vec![(1, Outcome::Ok)], Some("connect_timeout")),
        (SILENT, vec![(1000, SILENT), (1, Outcome::Ok)], Some("connect_timeout")),
        (SILENT, vec![(1000, SILENT), (1, REFUSED)], Some("control_failed")),
        (SILENT, vec![(9999, Outcome::Ok)], Some("control_failed")),
        (SILENT, vec![(1, STARVED)], Some("connect_timeout")),
        (SILENT, vec![(1, STARVED), (1000, SILENT)], Some("control_failed")),
        (REFUSED, vec![(1000, SILENT)], Some("control_failed")),
        (EXPIRED, vec![(1000, SILENT)], Some("tls_expired")),
        (STARVED, vec![(1000, SILENT)], Some("local_resources")),
        (Outcome::Ok, vec![(1000, SILENT)], None),
    ] {
        let control = Script::new(&controls);
        let (seen, _) = probed(&controlled(&Script::new(&[(1000, target)]), &control, controls.len())).await;
        assert_eq!(seen.outcome.reason(), want, "{target:?} beside {controls:?}");
        if want == Some("control_failed") {
            let detail = seen.detail.unwrap();
            let named = ["tcp://10.0.0.0:53", "this target connect_", "what was seen"];
            assert!(named.iter().all(|part| detail.contains(part)), "{detail}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_drop_is_called_as_soon_as_without_controls() {
    let (seen, ms) = probed(&controlled(&Script::new(&[(1000, SILENT)]), &Script::new(&[(5, Outcome::Ok)]), 1)).await;
    assert_eq!((seen.outcome, ms), (SILENT, 1000));
}

#[tokio::test(start_paused = true)]
async fn what_passes_at_once_costs_no_control() {
    let control = Script::new(&[(5, Outcome::Ok)]);
    let (seen, ms) = probed(&controlled(&Script::new(&[(100, Outcome::Ok)]), &control, 1)).await;
    assert_eq!((seen.outcome, ms, control.asked()), (Outcome::Ok, 100, 0));
}

#[tokio::test(start_paused = true)]
async fn a_control_that_was_good_before_the_network_broke_does_not_count() {
    // It was good when the first probe fell short; 0.9 s later the second one is refused, and the network has broken.
    let control = Script::new(&[(1, Outcome::Ok), (1, REFUSED)]);
    let controlled = controlled(&Script::new(&[(1, REFUSED)]), &control, 1);
    assert_eq!(probed(&controlled).await.0.outcome, REFUSED);
    sleep(Duration::from_millis(900)).await;
    let (seen, ms) = probed(&controlled).await;
    assert_eq!(seen.outcome, Outcome::Void(Void::ControlFailed));
    assert_eq!(control.asked(), 2);
    assert!(ms < 200, "the next control may begin 1 s after the last: {ms} ms");
}

#[tokio::test(start_paused = true)]
async fn controls_are_shared_and_tried_at_most_once_a_second() {
    let control = Script::new(&[(1, Outcome::Ok)]);
    let controlled = controlled(&Script::new(&[(5_000, SILENT)]), &control, 1);
    let many = (0..100).map(|_| probed(&controlled));
    let seen = join_all(many).await;
    assert!(seen.iter().all(|(seen, _)| seen.outcome == SILENT));
    assert_eq!(control.asked(), 5, "one in each second, for all of them");
}

#[tokio::test(start_paused = true)]
async fn a_control_target_is_tried_until_it_has_been_good_once() {
    let bad = Outcome::Short(Short::TlsUntrusted);
    let control = Script::new(&[(10, bad), (20, Outcome::Ok)]);
    let controlled = controlled(&Script::new(&[(1, Outcome::Ok)]), &control, 1);
    let begin = Instant::now();
    controlled.first_tries().await;
    assert_eq!(control.asked(), 2);
    assert_eq!(begin.elapsed().as_millis(), 10 + AGAIN.as_millis() + 20);
}

#[test]
fn who_was_never_good_is_named_with_what_to_do() {
    let warning = never_good("tls://10.0.0.2:443", "tls_untrusted", true);
    for part in ["tls://10.0.0.2:443", "tls_untrusted (the certificate is signed", "[[control]]", "no TLS options"] {
        assert!(warning.contains(part), "{warning}");
    }
    assert!(!never_good("tcp://10.0.0.2:53", "unanswered", false).contains("TLS"));
}

#[tokio::test(start_paused = true)]
async fn a_control_that_is_not_the_first_to_be_good_is_not_cut_off() {
    for slow in [Outcome::Ok, SILENT] {
        let control = Script::new(&[(1, Outcome::Ok), (2_500, slow), (1, Outcome::Ok), (1, Outcome::Ok)]);
        let (seen, _) = probed(&controlled(&Script::new(&[(4_000, SILENT)]), &control, 2)).await;
        assert_eq!(seen.outcome, SILENT);
        sleep(Duration::from_secs(5)).await;
        assert_eq!(control.ended.load(Ordering::SeqCst), control.asked(), "one was cut off");
        // In rounds at 0.5, 1.5, 2.5 and 3.5 s, but for those in which the slow one was still under way.
        assert_eq!(control.asked(), 4 + 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_control_that_is_still_being_tried_is_waited_for() {
    // The first is good at once and then gone; the other takes 1.5 s, and is good.
    let control = Script::new(&[(1, Outcome::Ok), (1_500, Outcome::Ok), (1, REFUSED), (500, Outcome::Ok)]);
    let (seen, _) = probed(&controlled(&Script::new(&[(1_600, SILENT)]), &control, 2)).await;
    assert_eq!(seen.outcome, SILENT);
}
