//! Administration: agents, the inventory, tokens and the audit log.

use preflight_core::identity::NetworkIdentity;
use serde::{Deserialize, Serialize};

/// An agent as the controller knows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Agent {
    /// The name, from its certificate.
    pub agent: String,
    /// The region, from its certificate.
    pub region: String,
    /// The fleet, from its certificate.
    pub fleet: String,
    /// `connected`, `unsteady`, `lost`, `left`, `revoked`, or `enrolled` where it has not connected yet.
    pub state: String,
    /// The program's version.
    pub version: Option<String>,
    /// What it last said of its network identity.
    #[cfg_attr(feature = "openapi", schema(value_type = Object))]
    pub identity: NetworkIdentity,
    /// When it was last heard of, RFC 3339, by the controller's clock.
    pub last_seen: Option<String>,
    /// How far its clock is ahead of the controller's, in milliseconds.
    pub clock_skew_ms: Option<i64>,
    /// When its certificate ends, RFC 3339.
    pub certificate_until: String,
    /// Why it is revoked, or what is odd about it.
    pub remark: Option<String>,
}

/// `GET /v1/agents`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Agents {
    /// By region, fleet and name.
    pub agents: Vec<Agent>,
    /// Fleets for which certificates exist and which the inventory lacks, and fleets of the inventory without an agent.
    pub remarks: Vec<String>,
}

/// `PUT /v1/inventory` and `GET /v1/inventory`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct InventoryDocument {
    /// The inventory's text, as it was written.
    pub inventory: String,
    /// Its file name, for error messages.
    #[serde(default)]
    pub name: String,
    /// When it was applied, RFC 3339; none in a request.
    #[serde(default)]
    pub applied_at: Option<String>,
    /// Who applied it; none in a request.
    #[serde(default)]
    pub applied_by: Option<String>,
    /// The file or URL that the controller follows; none where people apply it, and in a request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// When the source was last read and good, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_at: Option<String>,
    /// Why the source could not be read since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// `POST /v1/tokens/join`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct JoinTokenRequest {
    /// The region that agents enrol for.
    pub region: String,
    /// The fleet that agents enrol for.
    pub fleet: String,
    /// How long it lives, in seconds.
    pub ttl_s: u64,
    /// How many agents it enrols.
    pub uses: u32,
    /// Source range (CIDR) that it is bound to; must be given past 24 hours.
    #[serde(default)]
    pub source: Option<String>,
}

/// `POST /v1/tokens`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ApiTokenRequest {
    /// The principal.
    pub name: String,
    /// `read`, `probe`, `gate`, `release`, `override`, `admin`.
    pub scopes: Vec<String>,
    /// How long it lives, in seconds.
    pub ttl_s: u64,
}

/// A new token. The secret is shown once.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NewToken {
    /// Its id, which lists show.
    pub id: String,
    /// The token.
    pub token: String,
    /// When it ends, RFC 3339.
    pub expires_at: String,
}

/// `GET /v1/tokens`: join tokens and API tokens that still work.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TokenList {
    /// By kind and name.
    pub tokens: Vec<TokenEntry>,
}

/// A token as lists show it, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TokenEntry {
    /// Its id, by which it is revoked.
    pub id: String,
    /// `join` or `api`.
    pub kind: String,
    /// An API token's principal; a join token's `REGION/FLEET`.
    pub name: String,
    /// What an API token may do; empty for a join token.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// How many agents a join token still enrols; none for an API token.
    #[serde(default)]
    pub uses_left: Option<u32>,
    /// Source range (CIDR) that a join token is bound to.
    #[serde(default)]
    pub source: Option<String>,
    /// When it ends, RFC 3339.
    pub expires_at: String,
}

/// `POST /v1/agents/{name}/revoke`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct RevokeRequest {
    /// Why; shown in lists and kept in the audit log.
    pub reason: String,
}

/// One entry of the audit log.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AuditEntry {
    /// Its number: later entries have higher ones. 0 from a controller that does not tell.
    #[serde(default)]
    pub id: i64,
    /// When, RFC 3339.
    pub at: String,
    /// Who; `-` where nobody was recognised.
    pub principal: String,
    /// What, as `METHOD /path` or the agent call.
    pub action: String,
    /// `ok` or why not.
    pub outcome: String,
    /// Where from.
    pub source: String,
    /// More.
    pub detail: String,
}

/// `GET /v1/audit`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AuditLog {
    /// Newest first.
    pub entries: Vec<AuditEntry>,
    /// Where there are older entries that match: they come with `before` set to this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<i64>,
}
