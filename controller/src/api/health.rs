//! Whether the controller lives and works, and its metrics, as the Prometheus ecosystem has them.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use jiff::Timestamp;
use preflight_core::matrix::State as CellState;
use preflight_proto::api::Problem;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::problem::Failure;
use crate::app::App;
use crate::store::Measured;

type Labels = Vec<(String, String)>;

/// The process lives.
#[utoipa::path(get, path = "/-/healthy", responses((status = 200)))]
pub(super) async fn healthy() -> &'static str {
    "preflight-controller is healthy.\n"
}

/// The store can be read: requests will be answered.
#[utoipa::path(get, path = "/-/ready", responses((status = 200), (status = 503, body = Problem)))]
pub(super) async fn ready(State(app): State<Arc<App>>) -> Result<&'static str, Failure> {
    app.store.ready().await?;
    Ok("preflight-controller is ready.\n")
}

/// The latest state of every cell, the agents and the runs, as `OpenMetrics` text.
#[utoipa::path(get, path = "/metrics", security(("token" = [])), responses(
    (status = 200, content_type = "application/openmetrics-text"), (status = 401, body = Problem), (status = 403, body = Problem)))]
pub(super) async fn metrics(State(app): State<Arc<App>>) -> Result<impl IntoResponse, Failure> {
    let mut registry = Registry::default();
    let success = Family::<Labels, Gauge>::default();
    let failure = Family::<Labels, Gauge>::default();
    let duration = Family::<Labels, Gauge<f64, AtomicU64>>::default();
    let expiry = Family::<Labels, Gauge>::default();
    let age = Family::<Labels, Gauge<f64, AtomicU64>>::default();
    let agents = Family::<Labels, Gauge>::default();
    let runs = Family::<Labels, Gauge>::default();
    let under_way: Gauge = Gauge::default();
    registry.register("probe_success", "Whether the cell's latest state is pass", success.clone());
    registry.register("probe_failure_info", "Why the cell's latest state is not pass", failure.clone());
    registry.register(
        "probe_duration_seconds",
        "The slowest of each phase when the cell was last seen",
        duration.clone(),
    );
    registry.register("probe_ssl_earliest_cert_expiry", "When the first certificate of the chain ends", expiry.clone());
    registry.register("preflight_cell_timestamp_seconds", "When the cell's latest state was found", age.clone());
    let (locks, reminders) = (Family::<Labels, Gauge>::default(), Family::<Labels, Gauge>::default());
    registry.register(
        "preflight_lock_timestamp_seconds",
        "When a region was locked; absent while it is not",
        locks.clone(),
    );
    registry.register(
        "preflight_lock_reminder_timestamp_seconds",
        "By when somebody should look whether the lock is still needed",
        reminders.clone(),
    );
    registry.register("preflight_agents", "Agents by fleet and standing", agents.clone());
    registry.register("preflight_runs_ended", "Runs kept that have ended, by kind", runs.clone());
    registry.register("preflight_runs_under_way", "Runs under way", under_way.clone());

    for Measured { cell, phases, certificate_until } in app.store.latest(None, None).await? {
        let labels: Labels = [
            ("application", &cell.application),
            ("region", &cell.region),
            ("fleet", &cell.fleet),
            ("dependency", &cell.dependency),
        ]
        .map(|(name, value)| (name.to_owned(), value.clone()))
        .into();
        success.get_or_create(&labels).set(i64::from(cell.state == CellState::Pass));
        if let Ok(at) = cell.at.parse::<Timestamp>() {
            age.get_or_create(&labels).set(at.as_duration().as_secs_f64());
        }
        let phases = [
            ("resolve", phases.resolve_ms),
            ("connect", phases.connect_ms),
            ("tls", phases.tls_ms),
            ("protocol", phases.protocol_ms),
        ];
        for (phase, ms) in phases {
            // No zero for a phase that was not reached.
            let Some(ms) = ms else { continue };
            let mut labels = labels.clone();
            labels.push(("phase".to_owned(), phase.to_owned()));
            duration.get_or_create(&labels).set(ms / 1_000.0);
        }
        if let Some(until) = certificate_until {
            expiry.get_or_create(&labels).set(until.as_second());
        }
        if let Some(reason) = cell.reason {
            let mut labels = labels;
            labels.push(("reason".to_owned(), reason));
            failure.get_or_create(&labels).set(1);
        }
    }
    for (application, guard) in app.store.guards(None).await? {
        for (region, place) in guard.regions {
            let Some(lock) = place.lock else { continue };
            let labels: Labels = vec![("application".to_owned(), application.clone()), ("region".to_owned(), region)];
            locks.get_or_create(&labels).set(lock.acts.first().map_or(0, |act| act.at.as_second()));
            if let Some(remind) = lock.remind_at {
                reminders.get_or_create(&labels).set(remind.as_second());
            }
        }
    }
    for ((fleet, standing), count) in app.roster.counts(Timestamp::now()) {
        let labels = [("region", fleet.region), ("fleet", fleet.fleet), ("state", standing.to_owned())];
        agents.get_or_create(&labels.map(|(name, value)| (name.to_owned(), value)).into()).set(count);
    }
    for (kind, count) in app.store.ended_runs().await? {
        runs.get_or_create(&vec![("kind".to_owned(), kind)]).set(count);
    }
    under_way.set(i64::try_from(app.runs.count()).unwrap_or(i64::MAX));

    let mut text = String::new();
    encode(&mut text, &registry).map_err(|error| Failure::internal(error.to_string()))?;
    Ok(([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text))
}
