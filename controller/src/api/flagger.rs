//! Flagger's webhook: what it calls with, as a request for a verdict.
//!
//! Flagger posts `{"name", "namespace", "phase", "checksum", "metadata": {…}}` (`CanaryWebhookPayload`), takes 200 to 202 as yes, and
//! waits for 10 seconds unless its `timeout` says otherwise.

use std::collections::BTreeMap;

use preflight_core::text::escape;
use preflight_proto::api::{GateRequest, Mode, Scope};
use serde::Deserialize;
use serde_json::Value;

use super::problem::Failure;

/// An answer has to be there before Flagger's default of 10 s is over.
const DEFAULT_WAIT_MS: u32 = 8_000;
/// The keys that `metadata` may hold.
const KEYS: [&str; 7] = ["manifest", "manifest_name", "region", "regions", "release", "scope", "wait"];

/// What `POST /v1/gate/check` takes.
#[derive(Debug, Clone, Deserialize, utoipa::ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "it describes the body; `request` reads it, with errors that say what is wrong")]
pub(super) enum CheckRequest {
    /// The gate's own.
    Gate(GateRequest),
    /// Flagger's.
    Flagger(Webhook),
}

/// Flagger's `CanaryWebhookPayload`.
#[derive(Debug, Clone, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "what is not used has to be there all the same: else it is not Flagger that calls")]
pub(super) struct Webhook {
    /// The canary's name.
    name: String,
    /// Its namespace.
    namespace: String,
    /// How far the canary is.
    phase: String,
    /// Of the canary's specification.
    #[serde(default)]
    checksum: String,
    /// `manifest` (its text), `region` or `regions` (with commas between them) and `release`; perhaps `wait` (default `8s`), `scope` and `manifest_name`.
    #[serde(default)]
    metadata: BTreeMap<String, String>,
}

/// The request that a body makes, whoever's it is. What is not understood is an error.
pub(super) fn request(body: Value) -> Result<GateRequest, Failure> {
    let is_webhook = ["phase", "checksum", "metadata"].iter().any(|key| body.get(key).is_some());
    if !is_webhook {
        let wrong =
            |error: serde_json::Error| Failure::usage(format!("the request: {}", escape(&error.to_string())), None);
        return serde_json::from_value(body).map_err(wrong);
    }
    let webhook: Webhook = serde_json::from_value(body).map_err(|error| {
        let fix = "Flagger sends name, namespace, phase, checksum and metadata; call `/v1/gate` for anything else.";
        Failure::usage(format!("Flagger's payload: {}", escape(&error.to_string())), fix.to_owned())
    })?;
    of_metadata(webhook.metadata)
}

fn of_metadata(mut metadata: BTreeMap<String, String>) -> Result<GateRequest, Failure> {
    let fix = || Some(format!("The webhook's metadata may hold {}; all values are strings.", KEYS.join(", ")));
    let unknown: Vec<String> =
        metadata.keys().filter(|key| !KEYS.contains(&key.as_str())).map(|key| escape(key)).collect();
    if !unknown.is_empty() {
        return Err(Failure::usage(format!("metadata has unknown keys: {}", unknown.join(", ")), fix()));
    }
    if let Some(one) = metadata.remove("region")
        && metadata.insert("regions".to_owned(), one).is_some()
    {
        return Err(Failure::usage("metadata has both `region` and `regions`", fix()));
    }
    let mut required = |key: &str| {
        let value = metadata.remove(key).filter(|value| !value.trim().is_empty());
        value.ok_or_else(|| Failure::usage(format!("metadata lacks `{key}`"), fix()))
    };
    let (manifest, regions, release) = (required("manifest")?, required("regions")?, required("release")?);
    let scope = match metadata.get("scope").map(String::as_str) {
        None | Some("new") => Scope::New,
        Some("all") => Scope::All,
        Some(other) => {
            return Err(Failure::usage(format!("metadata: `scope` is '{}'; write new or all", escape(other)), None));
        }
    };
    Ok(GateRequest {
        id: None,
        manifest,
        manifest_name: metadata.remove("manifest_name").unwrap_or_else(|| "metadata.manifest".to_owned()),
        regions: regions.split(',').map(|region| region.trim().to_owned()).collect(),
        all_regions: false,
        release,
        scope,
        wait_ms: metadata.get("wait").map_or(Ok(DEFAULT_WAIT_MS), |text| wait_ms(text))?,
        fail_fast: false,
        strict: false,
        await_agents: false,
        mode: Mode::Gate,
    })
}

/// `500ms`, `8s` or `2m`.
fn wait_ms(text: &str) -> Result<u32, Failure> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit_ms: Option<u32> = match unit {
        "ms" => Some(1),
        "s" => Some(1_000),
        "m" => Some(60_000),
        _ => None,
    };
    let span = unit_ms.zip(number.parse::<u32>().ok()).and_then(|(unit, number)| number.checked_mul(unit));
    span.ok_or_else(|| {
        Failure::usage(format!("metadata: `wait` is '{}'; write a number and ms, s or m", escape(text)), None)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn webhook(metadata: &Value) -> Value {
        json!({"name": "shop", "namespace": "prod", "phase": "Progressing", "checksum": "85d557f47b", "metadata": metadata})
    }

    #[test]
    fn its_metadata_is_a_request() {
        let body = webhook(
            &json!({"manifest": "application: shop\n", "regions": "eu, us", "release": "r1", "wait": "2m", "scope": "all"}),
        );
        let request = request(body).unwrap();
        assert_eq!((request.manifest.as_str(), request.release.as_str()), ("application: shop\n", "r1"));
        assert_eq!(
            (request.regions, request.wait_ms, request.scope),
            (vec!["eu".into(), "us".into()], 120_000, Scope::All)
        );
        assert_eq!((request.mode, request.all_regions), (Mode::Gate, false));
        let short = request_of(&json!({"manifest": "m", "region": "eu", "release": "r1"}));
        assert!(short.unwrap().wait_ms < 10_000, "Flagger waits for 10 s");
    }

    fn request_of(metadata: &Value) -> Result<GateRequest, String> {
        request(webhook(metadata)).map_err(|failure| failure.into_problem().error.message)
    }

    #[test]
    fn what_is_not_understood_is_an_error_that_names_it() {
        let cases = [
            (
                json!({"manifest": "m", "regions": "eu", "release": "r1", "advisory": "true", "cmd": "x"}),
                "advisory, cmd",
            ),
            (json!({"regions": "eu", "release": "r1"}), "`manifest`"),
            (json!({"manifest": "m", "region": "eu", "regions": "us", "release": "r1"}), "both"),
            (json!({"manifest": "m", "regions": " ", "release": "r1"}), "`regions`"),
            (json!({"manifest": "m", "regions": "eu"}), "`release`"),
            (json!({"manifest": "m", "regions": "eu", "release": 1}), "invalid type"),
            (json!({"manifest": "m", "regions": "eu", "release": "r1", "wait": "soon"}), "`wait`"),
            (json!({"manifest": "m", "regions": "eu", "release": "r1", "wait": "99999999m"}), "`wait`"),
            (json!({"manifest": "m", "regions": "eu", "release": "r1", "scope": "none"}), "`scope`"),
        ];
        for (metadata, said) in cases {
            let error = request_of(&metadata).unwrap_err();
            assert!(error.contains(said), "{metadata}: {error}");
        }
        for body in [
            json!({"phase": "Progressing"}),
            json!({"metadata": {}, "manifest": "m"}),
            json!([]),
            json!(null),
            json!({}),
        ] {
            assert!(request(body.clone()).is_err(), "{body}");
        }
        let mut more = webhook(&json!({"manifest": "m", "regions": "eu", "release": "r1"}));
        more["decision"] = json!("proceed");
        assert!(request(more).is_err());
    }
}
