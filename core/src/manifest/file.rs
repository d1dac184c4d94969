//! The manifest as it is written: which keys there are, for the reader and for the JSON Schema. What the values mean is
//! checked in `check.rs`; here every scalar is text, so that an error can quote what was written.

use std::fmt;

use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::observation::Proof;
use crate::spec::{Addresses, Expect, Families, TlsVersion};
use crate::yaml::{At, Entries, given};

/// What an application depends on: preflight proves, before a release ships, that every fleet that runs it can reach
/// every one of these.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "preflight manifest", rename = "Manifest")]
pub(super) struct ManifestFile {
    /// The application's name, as in the inventory.
    #[schemars(regex(pattern = r"^[a-z0-9][a-z0-9._-]{0,62}$"))]
    pub(super) application: At<String>,
    /// The dependencies by name. At least one.
    #[schemars(extend("minProperties" = 1))]
    pub(super) dependencies: Entries<DependencyFile>,
}

/// One dependency: a target, how to probe it, and which fleets use it. Either `target` or `targets` is required.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Dependency", extend("oneOf" = [{"required": ["target"]}, {"required": ["targets"]}]))]
pub(super) struct DependencyFile {
    /// The URL, the same for every region: `scheme://host:port` with scheme `tcp`, `tls`, `redis`, `rediss`, `http`, `https`, `postgres`,
    /// `mysql`, `memcached`, `amqp`, `amqps`, `grpc` or `grpcs`; for HTTP with a path, for gRPC with `/` and a service's name.
    /// `{region}` and the region's `vars` of the inventory may stand in host and port.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Option<String>")]
    pub(super) target: Option<At<String>>,
    /// The URL for each region, where they differ.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Option<Entries<String>>")]
    pub(super) targets: Option<At<Entries<At<String>>>>,
    /// The fleets that use it: `all` (the default), or some of them with the reason why the others never do.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Option<FleetsSchema>")]
    pub(super) fleets: Option<At<FleetsFile>>,
    /// How long each phase that follows the connect may take: 100ms to 60s, 5s by default.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Option<DurationSchema>")]
    pub(super) timeout: Option<At<String>>,
    /// After which time silence counts as a drop: 100ms to 10s, 1s by default.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Option<DurationSchema>")]
    pub(super) connect_timeout: Option<At<String>>,
    /// How far the probe must get: by default `connected` for tcp, `encrypted` for tls, `protocol` for the others.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Option<Proof>")]
    pub(super) require: Option<At<String>>,
    /// What is expected: `reachable`, the default, or `blocked`: a path that must not exist. It passes only where something stops it
    /// while another agent of the same run reaches the target.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Option<Expect>")]
    pub(super) expect: Option<At<String>>,
    /// The longest from the first packet to the last proof, the name's lookup left out: 1ms to 60s. Beyond it is `too_slow`.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Option<DurationSchema>")]
    pub(super) max_latency: Option<At<String>>,
    /// The HTTP proxy that is asked to `CONNECT` to the target: `http://host:port`. Placeholders as in `target`.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Option<String>")]
    pub(super) via: Option<At<String>>,
    /// What of an HTTP answer is accepted. Only for http and https.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Option<HttpFile>")]
    pub(super) http: Option<At<HttpFile>>,
    /// The members that a Redis target is asked for, each of which is probed too: `cluster` or `sentinel`.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Option<TopologySchema>")]
    pub(super) topology: Option<At<String>>,
    /// For `topology: sentinel`, the name of the primary that the code asks for; all of them if absent.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Option<String>")]
    pub(super) sentinel_master: Option<At<String>>,
    /// Which address families must work.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Option<Families>")]
    pub(super) families: Option<At<String>>,
    /// How many of a name's addresses must work: by default all where every one is private, one where any is public.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Option<Addresses>")]
    pub(super) addresses: Option<At<String>>,
    /// How TLS is verified. For postgres and mysql, `tls: {}` is enough to ask for their own upgrade to TLS and to require it.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Option<TlsFile>")]
    pub(super) tls: Option<At<TlsFile>>,
    /// How the code uses it. Feeds the estimate of what an outage of it would do.
    #[serde(default, deserialize_with = "given")]
    pub(super) usage: Option<UsageFile>,
}

/// How TLS is verified.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Tls")]
pub(super) struct TlsFile {
    /// The name to ask for and to verify, where it is not the target's host.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Option<String>")]
    pub(super) server_name: Option<At<String>>,
    /// PEM certificates to trust instead of the host's store.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Option<String>")]
    pub(super) ca_pem: Option<At<String>>,
    /// A file of PEM certificates on the agent's host, which its policy must bind to this destination.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Option<String>")]
    pub(super) ca_file: Option<At<String>>,
    /// The client's certificate: a PEM file on the agent's host, which its policy must bind to this destination.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Option<String>")]
    pub(super) cert_file: Option<At<String>>,
    /// The key of `cert_file`, likewise.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Option<String>")]
    pub(super) key_file: Option<At<String>>,
    /// The oldest version that is accepted: 1.2, the default, or 1.3.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Option<TlsVersion>")]
    pub(super) min_version: Option<At<String>>,
    /// Trusts exactly the certificate with this SHA-256, whatever its issuer and names: `sha256:` and 64 hex digits.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Option<String>")]
    pub(super) fingerprint: Option<At<String>>,
}

/// What of an HTTP answer is accepted.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Http")]
pub(super) struct HttpFile {
    /// The statuses that are accepted, such as `[200, 3xx]`; all but 502, 503 and 504 by default.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Option<Vec<StatusSchema>>")]
    pub(super) status: Option<At<Vec<At<String>>>>,
    /// A text that the body must contain, within its first 64 KiB.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Option<String>")]
    pub(super) body: Option<At<String>>,
}

/// How the code uses a dependency.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Usage")]
pub(super) struct UsageFile {
    /// Calls to the dependency in one request, on average.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Option<f64>")]
    pub(super) calls_per_request: Option<At<String>>,
    /// How long the client waits for one call: 1ms to 1h.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Option<DurationSchema>")]
    pub(super) client_timeout: Option<At<String>>,
    /// Requests per second that use it, on one host.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Option<f64>")]
    pub(super) requests_per_second: Option<At<String>>,
    /// Requests that one host serves at the same time.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Option<u32>")]
    pub(super) workers: Option<At<String>>,
}

/// The value of `fleets`.
#[derive(Debug)]
pub(super) enum FleetsFile {
    /// A word; only `all` means something.
    Word(String),
    /// A bare list, which says no reason.
    List(Vec<String>),
    /// Some fleets, and why.
    Only(OnlyFile),
}

/// Some of the fleets.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Only")]
pub(super) struct OnlyFile {
    /// The fleets that use the dependency.
    #[schemars(with = "Vec<String>", length(min = 1))]
    pub(super) only: At<Vec<At<String>>>,
    /// Why the others never use it. Shown beside them.
    #[schemars(length(min = 1))]
    pub(super) because: At<String>,
}

impl<'de> Deserialize<'de> for FleetsFile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyForm;

        impl<'de> Visitor<'de> for AnyForm {
            type Value = FleetsFile;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("all, or {only: [fleet, …], because: \"…\"}")
            }

            fn visit_str<E>(self, text: &str) -> Result<FleetsFile, E> {
                Ok(FleetsFile::Word(text.to_owned()))
            }

            // Other scalars are words too, so that the error can say where they stand.
            fn visit_bool<E>(self, value: bool) -> Result<FleetsFile, E> {
                Ok(FleetsFile::Word(value.to_string()))
            }

            fn visit_i64<E>(self, value: i64) -> Result<FleetsFile, E> {
                Ok(FleetsFile::Word(value.to_string()))
            }

            fn visit_u64<E>(self, value: u64) -> Result<FleetsFile, E> {
                Ok(FleetsFile::Word(value.to_string()))
            }

            fn visit_f64<E>(self, value: f64) -> Result<FleetsFile, E> {
                Ok(FleetsFile::Word(value.to_string()))
            }

            fn visit_unit<E>(self) -> Result<FleetsFile, E> {
                Ok(FleetsFile::Word(String::new()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<FleetsFile, A::Error> {
                let mut list = Vec::new();
                while let Some(fleet) = seq.next_element()? {
                    list.push(fleet);
                }
                Ok(FleetsFile::List(list))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<FleetsFile, A::Error> {
                OnlyFile::deserialize(MapAccessDeserializer::new(map)).map(FleetsFile::Only)
            }
        }

        deserializer.deserialize_any(AnyForm)
    }
}

/// `all`, or some with a reason.
#[derive(JsonSchema)]
#[schemars(rename = "Fleets", untagged)]
#[expect(dead_code, reason = "only its schema is used")]
enum FleetsSchema {
    /// Every fleet that runs the application.
    All(AllSchema),
    /// Some of the fleets, and why.
    Only(OnlyFile),
}

#[derive(JsonSchema)]
#[schemars(rename = "All", rename_all = "lowercase", inline)]
#[expect(dead_code, reason = "only its schema is used")]
enum AllSchema {
    All,
}

#[derive(JsonSchema)]
#[schemars(rename = "Topology", rename_all = "lowercase", inline)]
#[expect(dead_code, reason = "only its schema is used")]
enum TopologySchema {
    Cluster,
    Sentinel,
}

/// A status, or all of a hundred.
#[derive(JsonSchema)]
#[schemars(rename = "Status", untagged)]
#[expect(dead_code, reason = "only its schema is used")]
enum StatusSchema {
    Code(#[schemars(range(min = 100, max = 599))] u16),
    Class(#[schemars(regex(pattern = r"^[1-5]([0-9]{2}|xx)$"))] String),
}

/// A duration: a whole number with its unit, `250ms` or `5s`.
#[derive(JsonSchema)]
#[schemars(rename = "Duration", transparent)]
#[expect(dead_code, reason = "only its schema is used")]
struct DurationSchema(#[schemars(regex(pattern = r"^[0-9]+(ms|s)$"))] String);
