//! What shipped: the baseline of the next gate.

use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};
use jiff::{SignedDuration, Timestamp};
use preflight_core::baseline::Proven;
use preflight_core::decision::{Override, is_void};
use preflight_core::guard::{Asked, Guard, GuardError};
use preflight_core::identity::IdentityKey;
use preflight_core::plan::CellDigest;
use preflight_core::run::{Mode, RunSpec};
use preflight_core::text::escape;
use preflight_proto::api::{self, DeployedRequest, Gate, Problem};
use serde::Deserialize;

use super::auth::Principal;
use super::gate::{release, stored_verdict};
use super::guard::Where;
use super::problem::Failure;
use crate::app::{App, audit_entry};
use crate::result::core_override;
use crate::standing;
use crate::store::{BesideGuard, Deployed, Place, Recorded, Shipped};

/// A verdict is what a release shipped with if it was given no longer ago than this.
const SHIPS_WITHIN: SignedDuration = SignedDuration::from_hours(24);
/// Cells that a notice names.
const UNPROVEN_NAMED: usize = 10;

/// Records that a release has shipped in a region. What its verdict held as `pass` is not required again.
#[utoipa::path(post, path = "/v1/releases/deployed", request_body = DeployedRequest, security(("token" = [])), responses(
    (status = 200, body = api::Deployed), (status = 401, body = Problem), (status = 403, body = Problem),
    (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem)))]
pub(super) async fn deployed(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Json(request): Json<DeployedRequest>,
) -> Result<Json<api::Deployed>, Failure> {
    release(&request.release)?;
    let gate = match &request.verdict {
        Some(id) => Some(stored_verdict(&app, id).await?),
        None => None,
    };
    let application = request.application.as_deref().or(gate.as_ref().map(|gate| gate.application.as_str()));
    let application = Where::find(&app, application, std::slice::from_ref(&request.region), false).await?.application;
    let overrides = app.store.overrides(Some(&application), Timestamp::now()).await?;
    // What ships without a verdict proves nothing, also where it did when it shipped before: the path may be gone since.
    let recorded = app.store.recorded(&application, &request.region).await?;
    let spec = match &request.verdict {
        Some(id) => app.store.run_spec(id).await?,
        None => None,
    };
    let Shown { proven, decided, unproven } = match gate.as_ref().zip(spec.as_ref()) {
        Some((gate, spec)) => shown_by(gate, spec, &application, &request, &overrides, &recorded)?,
        None => Shown::nothing("no verdict", &request),
    };
    let notice = notice(gate.as_ref(), &request, decided, &unproven);
    let deployed = Deployed {
        id: 0,
        application,
        region: request.region,
        proven,
        at: Timestamp::now(),
        principal: principal.name.clone(),
    };
    let detail = format!(
        "{} {} in {}, by verdict {} ({decided}), {} cells proven",
        deployed.application,
        deployed.proven.release,
        deployed.region,
        deployed.proven.verdict.as_deref().unwrap_or("none"),
        deployed.proven.cells.len()
    );
    // Without its record in the audit log nothing is proven.
    let entry = audit_entry(&principal.name, "release deployed", "ok", &principal.source, &detail, deployed.at);
    let carried = gate.iter().flat_map(|gate| &gate.regions).filter(|region| region.region == deployed.region);
    let cells = carried.flat_map(crate::result::carried).collect();
    let overrides: Vec<Override> = overrides.iter().filter_map(core_override).collect();
    let places = places(&app, gate.as_ref(), &deployed).await?;
    let record = |guard: &mut Guard| {
        let asked = Asked {
            application: &deployed.application,
            region: &deployed.region,
            release: &deployed.proven.release,
            cells: &cells,
            mode: if gate.as_ref().is_some_and(|gate| gate.rollback) { Mode::Rollback } else { Mode::Gate },
        };
        let holds = guard.word(&asked, &overrides, deployed.at).holds;
        guard.deployed(&deployed.region, &deployed.proven.release);
        Ok::<_, GuardError>((
            holds,
            BesideGuard {
                entries: vec![entry],
                deployed: vec![Shipped { deployed: deployed.clone(), places, expected: Some(recorded.latest) }],
                ..BesideGuard::default()
            },
        ))
    };
    let holds = app.store.change_guard(&deployed.application, deployed.at, record).await??;
    // What has shipped is a fact, also where it should not have.
    let held = holds.into_iter().map(|hold| format!("It has shipped although it was held back: {}.", hold.text));
    let notices: Vec<String> = notice.into_iter().chain(held).collect();
    let notice = (!notices.is_empty()).then(|| notices.join(" "));
    Ok(Json(api::Deployed { notice, ..shown(deployed) }))
}

/// The cells that the matrix shows of it: its verdict's, else those of the verdict that it shipped with before. None where there is none.
pub(super) async fn places(app: &App, gate: Option<&Gate>, deployed: &Deployed) -> Result<Vec<Place>, Failure> {
    let Deployed { application, region, proven, .. } = deployed;
    // A rollback's verdict may show nothing of a manifest that does not fit the inventory of now.
    let of_region = |gate: &Gate| {
        let cells = gate.regions.iter().filter(|of| of.region == *region).flat_map(|of| &of.cells);
        let place = |cell: &api::Cell| Place {
            region: region.clone(),
            fleet: cell.fleet.clone(),
            dependency: cell.dependency.clone(),
            digest: cell.digest.clone(),
        };
        cells.map(place).collect::<Vec<_>>()
    };
    let places = gate.map(of_region).unwrap_or_default();
    if !places.is_empty() {
        return Ok(places);
    }
    let before = app.store.deployed(application, region, Some(&proven.release)).await?;
    match before.and_then(|before| before.proven.verdict) {
        Some(id) => Ok(of_region(&stored_verdict(app, &id).await?)),
        None => Ok(Vec::new()),
    }
}

/// What a verdict has shown of a region.
struct Shown {
    proven: Proven,
    /// What it decided, or why that proves nothing.
    decided: &'static str,
    /// The cells that it did not hold as `pass`; empty where it proves nothing at all.
    unproven: Vec<String>,
}

impl Shown {
    fn nothing(why: &'static str, request: &DeployedRequest) -> Self {
        let proven = Proven::nothing(request.release.clone(), request.verdict.clone());
        Self { proven, decided: why, unproven: Vec::new() }
    }
}

/// The cells that a verdict held as `pass` in the region, each with the verdict whose run has shown it and from which kinds of hosts; and
/// what it decided. What it did not mean to decide, or did not stand by, it has not shown; nor anything where the region's baseline is
/// another one since.
fn shown_by(
    gate: &Gate,
    spec: &RunSpec,
    application: &str,
    request: &DeployedRequest,
    overrides: &[api::Override],
    recorded: &Recorded,
) -> Result<Shown, Failure> {
    let wrong = |what: &str, have: &str, want: &str| {
        let message = format!("verdict {} is for {what} {}, not {}", escape(&gate.id), escape(have), escape(want));
        Err(Failure::refused(message, "Name the verdict that this release shipped with.".to_owned()))
    };
    if gate.application != application {
        return wrong("application", &gate.application, application);
    }
    if gate.release != request.release {
        return wrong("release", &gate.release, &request.release);
    }
    let Some(region) = gate.regions.iter().find(|region| region.region == request.region) else {
        let regions: Vec<&str> = gate.regions.iter().map(|region| region.region.as_str()).collect();
        return wrong("region", &regions.join(", "), &request.region);
    };
    let ended: Timestamp = gate.ended_at.parse().map_err(|_| Failure::internal("a verdict without a time"))?;
    // A run that was taken up again long after its time rests on evidence from before its deadline.
    let ended = ended.min(spec.deadline);
    if !(-standing::CLOCK_STEP..=SHIPS_WITHIN).contains(&Timestamp::now().duration_since(ended)) {
        let message = format!(
            "verdict {} was given at {ended:.0}: too long ago, or by a clock that was set back since, for what ships now",
            escape(&gate.id)
        );
        return Err(Failure::refused(
            message,
            "Gate the release again (`--scope all`), and name that verdict.".to_owned(),
        ));
    }
    if gate.advisory {
        return Ok(Shown::nothing("advisory", request));
    }
    if region.reasons.iter().any(|reason| is_void(&reason.code)) {
        return Ok(Shown::nothing("void", request));
    }
    if !standing::baseline(spec, &region.region, recorded).is_empty() {
        return Ok(Shown::nothing("outdated", request));
    }
    // An override that was given at the sight of the verdict lets it go as well as one that was there before.
    let blocks = |cell: &&api::Cell| cell.required && cell.state != api::State::Pass;
    let overridden = |cell: &api::Cell| {
        let covers = |o: &&api::Override| o.withdrawn.is_none() && o.region == region.region && o.digest == cell.digest;
        overrides.iter().any(|o| covers(&o))
    };
    let mut blocking = region.cells.iter().filter(blocks).peekable();
    let decided = match region.decision {
        api::Decision::Proceed if gate.rollback => "rollback",
        api::Decision::Proceed if !region.overrides.is_empty() => "override",
        api::Decision::Proceed => "proceed",
        api::Decision::Block if blocking.peek().is_some() && blocking.all(overridden) => "override",
        api::Decision::Block => "block",
    };
    // What passed with a host that fell short would not have with --strict.
    let held = |cell: &api::Cell| cell.state == api::State::Pass && cell.agents.short == 0;
    let short = region.cells.iter().filter(|cell| !held(cell));
    let unproven = short.map(|cell| format!("{}/{}/{}", region.region, cell.fleet, cell.dependency)).collect();
    let before = recorded.deployed.as_ref().map(|last| &last.proven);
    let mut proven = Proven::nothing(request.release.clone(), request.verdict.clone());
    for cell in region.cells.iter().filter(|cell| held(cell)) {
        let digest = CellDigest(cell.digest.clone());
        let (by, from) = match &cell.proven_by {
            Some(verdict) => (verdict, before.and_then(|before| before.shown_from(&digest)).cloned()),
            None => (&gate.id, Some(cell.identities.iter().map(|seen| IdentityKey(seen.key.clone())).collect())),
        };
        if let Some(from) = from {
            proven.insert(digest, by.clone(), from);
        }
    }
    Ok(Shown { proven, decided, unproven })
}

/// What whoever records a release should know, where not everything that it ships is proven.
fn notice(gate: Option<&Gate>, request: &DeployedRequest, decided: &str, unproven: &[String]) -> Option<String> {
    let by = gate.map_or_else(String::new, |gate| format!("verdict {} ", escape(&gate.id)));
    let every = "nothing is proven by it, and the next gate requires every cell again";
    let what = match decided {
        "no verdict" => format!("there is no verdict for it: {every}"),
        "advisory" => format!("{by}is advisory: {every}"),
        "void" => format!("{by}did not stand when it was given: {every}"),
        "outdated" => {
            format!("{by}does not stand: another deployment, or a rollback, was recorded since it began: {every}")
        }
        _ => {
            let what = match decided {
                "block" => "decided block",
                "override" => "was let go by override",
                "rollback" => "is of a rollback",
                _ if unproven.is_empty() => return None,
                _ => "did not show all",
            };
            let mut names: Vec<String> = unproven.iter().take(UNPROVEN_NAMED).map(|name| escape(name)).collect();
            if unproven.len() > UNPROVEN_NAMED {
                names.push(format!("and {} more", unproven.len() - UNPROVEN_NAMED));
            }
            let names = names.join(", ");
            match (unproven.is_empty(), decided) {
                (true, "rollback") => return None,
                (true, _) => format!("{by}{what}"),
                (false, _) => format!("{by}{what}: not proven, and required again by the next gate: {names}"),
            }
        }
    };
    let (release, region) = (escape(&request.release), escape(&request.region));
    Some(format!(
        "{release} in {region}: {what}. It is recorded all the same, and `preflight gate --rollback` to it will proceed unless it is quarantined."
    ))
}

pub(super) fn shown(deployed: Deployed) -> api::Deployed {
    api::Deployed {
        application: deployed.application,
        region: deployed.region,
        release: deployed.proven.release,
        verdict: deployed.proven.verdict,
        proven: u32::try_from(deployed.proven.cells.len()).unwrap_or(u32::MAX),
        at: deployed.at.to_string(),
        by: deployed.principal,
        notice: None,
    }
}

/// Narrows a list.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
pub(super) struct Of {
    /// Only of this application.
    pub(super) application: Option<String>,
}
