//! What every adapter of the store must keep.

use std::net::{IpAddr, Ipv4Addr};

use preflight_core::guard::{Act, Candidate, Guard};
use preflight_core::identity::{IdentityKey, NetworkIdentity};
use preflight_core::observation::{Control, Report, Routes};
use preflight_core::plan::{CellDigest, FleetId, Plan};
use preflight_core::run::{AgentId, RunSpec, Testimony};

use super::*;
use crate::secret::NewSecret;

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 1, 2, 3));

fn at(s: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + s).unwrap()
}

fn fleet() -> FleetId {
    FleetId { region: "eu".into(), fleet: "worker".into() }
}

async fn join_token(store: &Store, uses: u32, source: Option<&str>) -> NewSecret {
    let secret = NewSecret::new().unwrap();
    store.put_join_token(&secret, &fleet(), uses, source, "admin", at(600)).await.unwrap();
    secret
}

fn spec(id: &str) -> RunSpec {
    RunSpec {
        id: id.into(),
        release: "r1".into(),
        plan: Plan {
            application: "shop".into(),
            manifest_digest: String::new(),
            regions: vec!["eu".into()],
            cells: Vec::new(),
            excluded: Vec::new(),
        },
        started: at(0),
        deadline: at(30),
        fail_fast: false,
        strict: false,
        await_agents: false,
        unlisted: Vec::new(),
        target_rate: RunSpec::TARGET_RATE,
        duties: Vec::new(),
        mode: preflight_core::run::Mode::Gate,
        basis: preflight_core::run::Basis::default(),
        only: None,
    }
}

fn testimony(resolved: u32) -> Testimony {
    Testimony {
        identity: NetworkIdentity::default(),
        report: Report {
            observations: Vec::new(),
            resolved,
            routes: Routes { ipv4: true, ipv6: false },
            control: Control::Unanswered,
            members: 0,
            egress: false,
        },
        clock_skew_ms: 0,
    }
}

#[tokio::test]
async fn a_join_token_enrols_for_its_fleet_and_no_more_often_than_it_may() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), false).await.unwrap();
    let token = join_token(&store, 2, None).await;
    // All at once: the count is atomic.
    let tries =
        futures_util::future::join_all((0..8).map(|_| store.enrol(&token.id, &token.secret, HERE, at(0)))).await;
    let enrolled: Vec<AgentId> = tries.into_iter().filter_map(Result::ok).collect();
    assert_eq!(enrolled.len(), 2);
    assert!(enrolled.iter().all(|id| id.fleet == fleet()));
    let again = store.enrol(&token.id, &token.secret, HERE, at(0)).await;
    assert!(matches!(again, Err(JoinRefused::UsedUp)), "{again:?}");
    assert_eq!(store.agents().await.unwrap().len(), 2);
}

#[tokio::test]
async fn an_expired_altered_or_misplaced_join_token_enrols_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), false).await.unwrap();
    let token = join_token(&store, 1, Some("192.168.0.0/16")).await;
    let refused = async |secret: &str, from: IpAddr, s| store.enrol(&token.id, secret, from, at(s)).await.unwrap_err();
    assert!(matches!(refused(&token.secret, HERE, 0).await, JoinRefused::Source));
    let there: IpAddr = "::ffff:192.168.1.1".parse().unwrap();
    assert!(matches!(refused(&token.secret, there, 600).await, JoinRefused::Expired));
    let altered: String = token.secret.chars().rev().collect();
    assert_ne!(altered, token.secret);
    assert!(matches!(refused(&altered, there, 0).await, JoinRefused::Unknown));
    assert!(store.agents().await.unwrap().is_empty());
    store.enrol(&token.id, &token.secret, there, at(0)).await.unwrap();
}

#[tokio::test]
async fn api_tokens_are_known_by_their_secret_until_they_expire() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), false).await.unwrap();
    let token = NewSecret::new().unwrap();
    store.put_api_token(&token, "ci", "gate,read", at(0), at(100)).await.unwrap();
    let known = |secret: String, s| {
        let (store, id) = (store.clone(), token.id.clone());
        async move { store.api_token(&id, &secret, at(s)).await.unwrap() }
    };
    assert_eq!(known(token.secret.clone(), 99).await, Some(("ci".into(), "gate,read".into())));
    assert_eq!(known(token.secret.clone(), 100).await, None);
    assert_eq!(known("0".repeat(64), 0).await, None);
    assert!(store.delete_token(&token.id).await.unwrap());
    assert_eq!(known(token.secret.clone(), 0).await, None);
}

#[tokio::test]
async fn a_certificate_used_after_its_successor_revokes_the_line() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), false).await.unwrap();
    let token = join_token(&store, 1, None).await;
    let id = store.enrol(&token.id, &token.secret, HERE, at(0)).await.unwrap();
    let put = async |serial, predecessor| {
        let certificate = Certificate { serial, agent: &id.agent, predecessor, not_after_ms: 0 };
        store.put_certificate(&certificate).await.unwrap();
    };
    let usage = async |serial| store.use_certificate(serial, at(1)).await.unwrap();
    put("01", None).await;
    assert_eq!(usage("01").await, CertificateCheck::Good);
    put("02", Some("01")).await;
    assert_eq!(usage("01").await, CertificateCheck::Good, "the successor has not been used yet");
    assert_eq!(usage("02").await, CertificateCheck::Good);
    assert_eq!(usage("01").await, CertificateCheck::Copied);
    assert!(matches!(usage("02").await, CertificateCheck::Revoked(_)), "the whole line is");
    assert_eq!(usage("ff").await, CertificateCheck::Unknown);
}

#[tokio::test]
async fn two_successors_of_one_certificate_that_are_both_used_revoke_the_line() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), false).await.unwrap();
    let token = join_token(&store, 1, None).await;
    let id = store.enrol(&token.id, &token.secret, HERE, at(0)).await.unwrap();
    for (serial, predecessor) in [("01", None), ("0a", Some("01")), ("0b", Some("01"))] {
        let certificate = Certificate { serial, agent: &id.agent, predecessor, not_after_ms: 0 };
        store.put_certificate(&certificate).await.unwrap();
    }
    // An answer to a renewal that was lost does no harm: that certificate is never used.
    assert_eq!(store.use_certificate("0a", at(1)).await.unwrap(), CertificateCheck::Good);
    assert_eq!(store.use_certificate("0b", at(2)).await.unwrap(), CertificateCheck::Copied);
    assert!(matches!(store.use_certificate("0a", at(3)).await.unwrap(), CertificateCheck::Revoked(_)));
}

#[tokio::test]
async fn an_open_run_is_found_again_with_what_was_acknowledged_and_ends_once() {
    let dir = tempfile::tempdir().unwrap();
    {
        let store = Store::open(dir.path(), false).await.unwrap();
        let token = join_token(&store, 1, None).await;
        let from = store.enrol(&token.id, &token.secret, HERE, at(0)).await.unwrap();
        assert!(store.create_run("gate", "request", &spec("run-1"), "ci", None).await.unwrap());
        assert!(!store.create_run("gate", "other", &spec("run-1"), "ci", None).await.unwrap());
        let cell = CellDigest("sha256:c".into());
        store.put_questions("run-1", &[(cell.clone(), from.agent.clone(), IdentityKey::default())]).await.unwrap();
        for (resolved, late) in [(1, false), (2, false), (3, true)] {
            let testimony = testimony(resolved).into();
            let new = NewTestimony { cell: cell.clone(), from: from.clone(), at: at(1), late, testimony };
            store.put_testimonies("run-1", &[new]).await.unwrap();
        }
    }
    let store = Store::open(dir.path(), true).await.unwrap();
    let [open]: [OpenRun; 1] = store.open_runs(None).await.unwrap().try_into().unwrap();
    assert_eq!((open.spec.clone(), open.questions.len()), (spec("run-1"), 1));
    let [(_, _, _, first)] = open.testimonies.as_slice() else { panic!("one answer") };
    assert_eq!(first.report.resolved, 1, "the first answer stays");
    assert!(store.close_run(&spec("run-1"), "{}", &Found::default(), at(2), None, None).await.unwrap() == Closed::Now);
    assert_eq!(
        store.close_run(&spec("run-1"), "{\"other\":1}", &Found::default(), at(3), None, None).await.unwrap(),
        Closed::Before
    );
    assert_eq!(store.run("run-1").await.unwrap().unwrap().result.as_deref(), Some("{}"));
    assert!(store.open_runs(None).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_damaged_or_missing_store_is_named_and_never_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), false).await.unwrap();
    store.read.close().await;
    store.write.close().await;
    let path = dir.path().join("preflight.db");
    for beside in ["preflight.db-wal", "preflight.db-shm"] {
        let _ = std::fs::remove_file(dir.path().join(beside));
    }
    std::fs::write(&path, b"this is no database, and it is long enough to be looked at as one").unwrap();
    let error = Store::open(dir.path(), true).await.unwrap_err();
    assert!(matches!(&error, StoreError::Corrupt { path: named, .. } if *named == path), "{error}");
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(Store::open(dir.path(), true).await, Err(StoreError::Missing(named)) if named == path));
    assert!(!path.exists());
}

#[tokio::test]
async fn a_store_that_another_process_holds_is_busy_for_a_while_and_then_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), false).await.unwrap();
    let other = Store::open(dir.path(), true).await.unwrap();
    let held = other.write.begin_with("BEGIN IMMEDIATE").await.unwrap();
    let refused = store.put_inventory("i.yaml", "", at(0), "admin", &entry("inventory apply")).await.unwrap_err();
    assert!(matches!(refused, StoreError::Busy) && refused.is_retryable(), "{refused:?}");
    drop(held);
    store.put_inventory("i.yaml", "", at(0), "admin", &entry("inventory apply")).await.unwrap();
}

fn entry(action: &str) -> AuditEntry {
    crate::app::audit_entry("admin", action, "ok", "10.0.0.1", "detail", at(0))
}

#[tokio::test]
async fn the_audit_log_is_only_added_to() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), false).await.unwrap();
    store.audit(&entry("token create"), at(1)).await.unwrap();
    for sql in [
        "UPDATE audit SET detail = 'nothing happened'",
        "UPDATE audit SET principal = 'somebody-else' WHERE id = 1",
        "INSERT OR REPLACE INTO audit (id, at, principal, action, outcome, source, detail) VALUES (1, 0, '', '', '', '', '')",
    ] {
        let refused = sqlx::query(sql).execute(&store.write).await.unwrap_err();
        assert!(refused.to_string().contains("append-only"), "{sql}: {refused}");
    }
    let kept = store.audit_log(&AuditFilter::default(), 10).await.unwrap();
    assert_eq!((kept.len(), kept[0].detail.as_str()), (1, "detail"));
}

#[tokio::test]
async fn the_audit_log_is_narrowed_and_read_in_pages() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), false).await.unwrap();
    for (second, action) in [(1, "override"), (2, "override withdraw"), (3, "overrides"), (4, "gate")] {
        store.audit(&entry(action), at(second)).await.unwrap();
    }
    let actions = async |wanted: AuditFilter<'_>, most: u32| -> Vec<String> {
        store.audit_log(&wanted, most).await.unwrap().into_iter().map(|entry| entry.action).collect()
    };
    let all = AuditFilter::default();
    assert_eq!(actions(all, 10).await, ["gate", "overrides", "override withdraw", "override"]);
    assert_eq!(actions(AuditFilter { action: Some("override"), ..all }, 10).await, ["override withdraw", "override"]);
    assert_eq!(actions(AuditFilter { action: Some("%"), ..all }, 10).await, [""; 0]);
    assert_eq!(actions(AuditFilter { since: Some(at(3)), ..all }, 10).await, ["gate", "overrides"]);
    assert_eq!(actions(AuditFilter { principal: Some("nobody"), ..all }, 10).await, [""; 0]);
    let first = store.audit_log(&all, 1).await.unwrap();
    let before = Some(first[0].id);
    assert_eq!(actions(AuditFilter { before, ..all }, 2).await, ["overrides", "override withdraw"]);
}

#[tokio::test]
async fn a_verdict_is_in_the_audit_log_once_with_who_asked_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), false).await.unwrap();
    assert!(store.create_run("gate", "r", &spec("run-1"), "pipeline", None).await.unwrap());
    for _ in 0..2 {
        let told = Some((entry("verdict"), at(2)));
        store.close_run(&spec("run-1"), "{}", &Found::default(), at(2), told, None).await.unwrap();
    }
    let kept = store.audit_log(&AuditFilter::default(), 10).await.unwrap();
    assert_eq!((kept.len(), kept[0].principal.as_str()), (1, "pipeline"));
}

#[tokio::test]
async fn a_verdict_is_stored_only_while_the_guard_is_what_it_went_by() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), false).await.unwrap();
    let app = spec("run-1").plan.application;
    assert!(store.create_run("gate", "request", &spec("run-1"), "ci", None).await.unwrap());
    let (guard, version) = store.guard(&app).await.unwrap();
    let announced: Vec<&str> =
        guard.regions.values().filter_map(|place| place.candidate.as_ref()).map(|c| c.release.as_str()).collect();
    assert_eq!(announced, vec![spec("run-1").release; spec("run-1").plan.regions.len()]);
    let lock = |guard: &mut Guard| {
        let act = Act { by: "ana".into(), at: at(1), reason: "an incident".into() };
        guard.lock("us", act, None);
        Ok::<_, String>(((), BesideGuard::default()))
    };
    store.change_guard(&app, at(1), lock).await.unwrap().unwrap();
    let refused = store.change_guard(&app, at(1), |guard| {
        guard.regions.clear();
        Err::<((), BesideGuard), _>("no")
    });
    assert_eq!(refused.await.unwrap(), Err("no"));
    let (locked, newer) = store.guard(&app).await.unwrap();
    assert!(newer > version && locked.place("us").unwrap().lock.is_some(), "what is refused changes nothing");
    let close = async |version| {
        store.close_run(&spec("run-1"), "{}", &Found::default(), at(2), None, Some(version)).await.unwrap()
    };
    // Who announces what would ship keeps no run from its end; who withdraws an override does.
    let announce = |guard: &mut Guard| {
        let candidate = Candidate { release: "r2".into(), run: None, by: "ci".into(), at: at(1) };
        guard.announce("eu", candidate);
        Ok::<_, String>(((), BesideGuard::default()))
    };
    store.change_guard(&app, at(1), announce).await.unwrap().unwrap();
    assert_eq!(store.guard(&app).await.unwrap().1, newer);
    let given: preflight_proto::api::Override = serde_json::from_value(serde_json::json!({
        "id": "o1", "application": app, "region": "eu", "fleet": "", "dependency": "", "digest": "", "verdict": "", "release": "r1",
        "by": "ana", "reason": "sure", "ticket": "OPS-1", "at": at(1).to_string(), "expires_at": at(100).to_string(),
    }))
    .unwrap();
    store.put_overrides(&[(given, entry("override"))], at(1)).await.unwrap();
    assert!(store.withdraw_override("o1", "ben", &entry("override withdraw"), at(2)).await.unwrap());
    assert!(!store.withdraw_override("o1", "ben", &entry("override withdraw"), at(2)).await.unwrap());
    assert_eq!(close(newer).await, Closed::GuardChanged);
    let newer = newer + 1;
    assert_eq!(close(version).await, Closed::GuardChanged);
    assert_eq!(close(newer).await, Closed::Now);
    assert_eq!(close(newer).await, Closed::Before);
}

#[tokio::test]
async fn the_matrix_shows_what_is_deployed_and_else_the_latest_gate() {
    use preflight_core::matrix::State;
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), false).await.unwrap();
    let place = |(dependency, digest): &(&str, &str)| Place {
        region: "eu".into(),
        fleet: "worker".into(),
        dependency: (*dependency).into(),
        digest: (*digest).into(),
    };
    // A gate of these places that probed these cells.
    let gate = async |id: &str, second: i64, places: &[(&str, &str)], probed: &[(&str, State)]| {
        let cell = |(digest, state): &(&str, State)| LatestCell {
            digest: (*digest).into(),
            target: "tcp://a:1".into(),
            state: *state,
            reason: None,
            phases: preflight_core::observation::Phases::default(),
            certificate_until: None,
        };
        let found = Found { latest: probed.iter().map(cell).collect(), places: places.iter().map(place).collect() };
        assert!(store.create_run("gate", id, &spec(id), "ci", None).await.unwrap());
        let closed = store.close_run(&spec(id), "{}", &found, at(second), None, None).await.unwrap();
        assert_eq!(closed, Closed::Now);
    };
    let deploy = async |places: &[(&str, &str)]| {
        let deployed = Deployed {
            id: 0,
            application: "shop".into(),
            region: "eu".into(),
            proven: preflight_core::baseline::Proven::nothing("r1".into(), None),
            at: at(5),
            principal: "ci".into(),
        };
        let places: Vec<Place> = places.iter().map(place).collect();
        let record = |_: &mut Guard| {
            Ok::<_, String>((
                (),
                BesideGuard { deployed: vec![Shipped { deployed, places, expected: None }], ..BesideGuard::default() },
            ))
        };
        store.change_guard("shop", at(5), record).await.unwrap().unwrap();
    };
    let shown = async || -> Vec<String> {
        let all = store.latest(None, None).await.unwrap();
        all.into_iter().map(|m| format!("{} {} {}", m.cell.dependency, m.cell.state.as_str(), m.cell.verdict)).collect()
    };
    let (pass, fail) = (State::Pass, State::Fail);
    gate("g1", 1, &[("cache", "c")], &[("c", pass)]).await;
    gate("g2", 2, &[("cache", "c"), ("queue", "q")], &[("c", pass), ("q", fail)]).await;
    assert_eq!(shown().await, ["cache pass g2", "queue fail g2"], "nothing is deployed: the latest gate");
    gate("g3", 3, &[("cache", "c")], &[("c", pass)]).await;
    assert_eq!(shown().await, ["cache pass g3"]);
    // An older run that ends late takes no place.
    gate("g0", 0, &[("old", "o")], &[("o", fail)]).await;
    assert_eq!(shown().await, ["cache pass g3"]);
    deploy(&[("cache", "c")]).await;
    gate("g4", 6, &[("cache", "other"), ("new", "n")], &[("other", fail), ("n", fail)]).await;
    assert_eq!(shown().await, ["cache pass g3"], "an experiment replaces nothing and removes nothing");
    gate("g5", 7, &[("renamed", "c")], &[("c", fail)]).await;
    assert_eq!(shown().await, ["cache fail g5"], "a cell's latest state, whichever gate has found it");
    // Under its new name it is deployed, and nobody has probed it since.
    deploy(&[("renamed", "c")]).await;
    assert_eq!(shown().await, ["renamed fail g5"]);
    store.prune(at(100 * 24 * 3600)).await.unwrap();
    assert_eq!(shown().await, ["renamed fail g5"], "what is shown is kept");
    // What is deployed now is not known.
    deploy(&[]).await;
    assert_eq!(shown().await, ["renamed fail g5"]);
    gate("g6", 8, &[("queue", "q2")], &[("q2", pass)]).await;
    assert_eq!(shown().await, ["queue pass g6"]);
}

#[tokio::test]
async fn a_rollback_outlives_the_baseline_before_it_and_not_the_one_after() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), false).await.unwrap();
    let ship = async |release: &str, expected: Option<releases::Latest>| {
        let mut proven = preflight_core::baseline::Proven::nothing(release.into(), Some("v1".into()));
        proven.insert(CellDigest("sha256:c".into()), "v0".into(), [IdentityKey("subnet=a".into())].into());
        let (application, region) = ("shop".into(), "eu".into());
        let deployed = Deployed { id: 0, application, region, proven, at: at(1), principal: "ci".into() };
        let beside = BesideGuard {
            deployed: vec![Shipped { deployed, places: Vec::new(), expected }],
            ..BesideGuard::default()
        };
        store.change_guard("shop", at(1), |_| Ok::<_, ()>(((), beside))).await
    };
    let recorded = async || store.recorded("shop", "eu").await.unwrap();
    let none = recorded().await;
    assert!(none.deployed.is_none() && !none.gone_back);
    ship("r1", Some(none.latest)).await.unwrap().unwrap();
    let first = recorded().await;
    let from = first.deployed.as_ref().unwrap().proven.shown_from(&CellDigest("sha256:c".into())).unwrap();
    assert_eq!(*from, [IdentityKey("subnet=a".into())].into());
    assert!(!first.gone_back);
    // What it was decided by has changed within the same moment.
    assert!(matches!(ship("r2", Some(none.latest)).await, Err(StoreError::Busy)));

    // Asked for with a run, told of later, and told of without regions: each counts, and each once.
    let back = RunSpec { mode: preflight_core::run::Mode::Rollback, ..spec("run-back") };
    assert!(store.create_run("gate", "request", &back, "ci", None).await.unwrap());
    assert!(!store.create_run("gate", "request", &back, "ci", None).await.unwrap());
    let asked = recorded().await;
    assert_eq!((asked.gone_back, asked.rollback_run.as_deref()), (true, Some("run-back")));
    ship("r1", None).await.unwrap().unwrap();
    assert!(!recorded().await.gone_back);
    let record = |kind: &str, regions: Vec<String>| preflight_proto::api::Record {
        id: format!("{kind}-{}", regions.len()),
        kind: kind.into(),
        application: "shop".into(),
        regions,
        release: "r0".into(),
        manifest_digest: String::new(),
        reason: String::new(),
        ticket: String::new(),
        by: String::new(),
        at: String::new(),
        error: String::new(),
    };
    store.put_record(&record("break_glass", vec!["eu".into()]), &entry("break_glass"), at(2)).await.unwrap();
    assert!(!recorded().await.gone_back);
    for regions in [vec!["eu".to_owned()], Vec::new()] {
        let told = record("rollback", regions);
        store.put_record(&told, &entry("rollback"), at(2)).await.unwrap();
        assert!(recorded().await.gone_back);
        ship("r1", None).await.unwrap().unwrap();
        store.put_record(&told, &entry("rollback"), at(3)).await.unwrap();
        assert!(!recorded().await.gone_back, "a record counts once");
    }
}
