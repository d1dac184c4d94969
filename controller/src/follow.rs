//! The inventory that another system writes: a file or URL that is read again and again. What cannot be read, or is wrong, leaves the
//! last good one in force; how old that is counts from when it was last read.

use std::io::Read as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use preflight_core::inventory::Inventory;
use preflight_core::plan::sha256;
use preflight_core::text::escape;

use tokio::sync::oneshot;

use crate::app::{App, audit_entry};
use crate::standing::CLOCK_STEP;

/// A source is read this often, unless told otherwise.
pub(crate) const EVERY: Duration = Duration::from_secs(30);
/// What was last read longer ago than this does not count, unless told otherwise.
pub(crate) const MAX_AGE: Duration = Duration::from_mins(10);
/// A URL has this long to answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// At the start nobody is served before the source was read, for this long.
pub(crate) const FIRST_READ: Duration = Duration::from_secs(3);
/// A new text counts if it is still the same after this long.
const SETTLED: Duration = Duration::from_secs(1);
/// The most of a source that is read, in bytes: an inventory may have 256 KiB.
const MAX_BYTES: u64 = 512 * 1024;

/// Where the inventory comes from, and how old it may be.
#[derive(Debug)]
pub(crate) struct Followed {
    place: Place,
    every: Duration,
    max_age: SignedDuration,
    seen: Mutex<Seen>,
}

#[derive(Debug, Clone)]
enum Place {
    File(PathBuf),
    Url(String),
}

#[derive(Debug, Default)]
struct Seen {
    /// When it was last read, and was good.
    read_at: Option<Timestamp>,
    /// Why it could not be read since.
    error: Option<String>,
}

impl Followed {
    /// Follows a file, or a URL that begins with `https://`; with `http://` only on this host: whoever can change the text on its way
    /// can leave fleets out of it, and what is left out is not asked for.
    pub(crate) fn new(place: &str, every: Duration, max_age: Duration) -> Result<Self, String> {
        let in_the_clear = place.starts_with("http://");
        let is_url = in_the_clear || place.starts_with("https://");
        let place = if is_url { Place::Url(place.to_owned()) } else { Place::File(place.into()) };
        let max_age = SignedDuration::try_from(max_age).unwrap_or(SignedDuration::MAX);
        let elsewhere = matches!(&place, Place::Url(url) if in_the_clear && !is_loopback(url));
        let followed = Self { place, every, max_age, seen: Mutex::default() };
        if elsewhere {
            return Err(format!("it is not taken from {} in the clear: use https, or a file", followed.name()));
        }
        Ok(followed)
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file's name or the URL, without what a URL may hold of credentials.
    pub(crate) fn name(&self) -> String {
        match &self.place {
            Place::File(path) => escape(&path.display().to_string()),
            Place::Url(url) => {
                let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
                let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
                let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
                escape(&format!("{scheme}://{host}{}", path.split('?').next().unwrap_or_default()))
            }
        }
    }

    /// When it was last read, and why it could not be read since.
    pub(crate) fn status(&self) -> (Option<Timestamp>, Option<String>) {
        let seen = self.seen();
        (seen.read_at, seen.error.clone())
    }

    /// Why what is in force may not be what is true any more; none while it is young enough.
    pub(crate) fn stale(&self, now: Timestamp) -> Option<String> {
        let seen = self.seen();
        let since = match seen.read_at {
            // What was read in the future was read before the clock was set back: nobody knows how long ago.
            Some(at) if (-CLOCK_STEP..=self.max_age).contains(&now.duration_since(at)) => return None,
            Some(at) => format!("was last read from {} at {at:.0}", self.name()),
            None => format!("has not been read from {} since this controller started", self.name()),
        };
        let why = seen.error.as_ref().map_or_else(String::new, |error| format!(": {error}"));
        Some(format!("the inventory {since}, and may be {} old at most{why}", in_words(self.max_age)))
    }

    /// Reads it again and again, and says when it has done so for the first time.
    pub(crate) async fn run(self: Arc<Self>, app: Arc<App>, first: oneshot::Sender<()>) {
        let mut first = Some(first);
        let mut tick = tokio::time::interval(self.every);
        loop {
            tick.tick().await;
            let read = self.once(&app).await;
            let mut seen = self.seen();
            match read {
                Ok(()) => {
                    if seen.error.take().is_some() {
                        tracing::info!(source = self.name(), "the inventory can be read again");
                    }
                    seen.read_at = Some(Timestamp::now());
                }
                Err(error) => {
                    if seen.error.as_ref() != Some(&error) {
                        tracing::warn!(
                            source = self.name(),
                            error,
                            "the inventory cannot be read; the last one stays in force"
                        );
                    }
                    seen.error = Some(error);
                }
            }
            // Where nobody waits for it any more, it was too slow.
            let _ = first.take().map(|first| first.send(()));
        }
    }

    /// Reads it once, and puts it in force if it is good and another one.
    async fn once(&self, app: &App) -> Result<(), String> {
        let place = self.place.clone();
        let text = tokio::task::spawn_blocking(move || read(&place)).await.map_err(|error| error.to_string())??;
        let name = self.name();
        Inventory::parse(&name, &text).map_err(|error| error.to_string())?;
        let failed = |error: crate::store::StoreError| error.to_string();
        if app.store.inventory().await.map_err(failed)?.is_some_and(|(_, old, ..)| old == text) {
            return Ok(());
        }
        // A writer that is not done leaves what may look whole: the same text twice, or none.
        tokio::time::sleep(SETTLED).await;
        let place = self.place.clone();
        let again = tokio::task::spawn_blocking(move || read(&place)).await.map_err(|error| error.to_string())??;
        if again != text {
            return Err("it is being written".to_owned());
        }
        let now = Timestamp::now();
        let detail = format!("{name} {}", sha256(text.as_bytes()));
        let entry = audit_entry("controller", "inventory apply", "ok", "", &detail, now);
        app.store.put_inventory(&name, &text, now, "controller", &entry).await.map_err(failed)?;
        tracing::info!(source = name, "a new inventory is in force");
        Ok(())
    }
}

/// Whether a URL names this host, as the client that asks it reads the URL.
fn is_loopback(url: &str) -> bool {
    let Ok(url) = url.parse::<ureq::http::Uri>() else { return false };
    let host = url.host().unwrap_or_default();
    let address: Result<IpAddr, _> = host.trim_matches(['[', ']']).parse();
    host == "localhost" || address.is_ok_and(|ip| ip.is_loopback())
}

fn read(place: &Place) -> Result<String, String> {
    let mut text = String::new();
    let read = match place {
        Place::File(path) => {
            let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
            file.take(MAX_BYTES + 1).read_to_string(&mut text)
        }
        Place::Url(url) => {
            let body = get(url)?;
            body.into_reader().take(MAX_BYTES + 1).read_to_string(&mut text)
        }
    };
    read.map_err(|error| error.to_string())?;
    if text.len() as u64 > MAX_BYTES {
        return Err(format!("it is longer than {} KiB", MAX_BYTES / 1024));
    }
    Ok(text)
}

/// Asks a URL. Whom to trust for https is the host's store, or `SSL_CERT_FILE`.
fn get(url: &str) -> Result<ureq::Body, String> {
    let found = rustls_native_certs::load_native_certs();
    let roots = found.certs.iter().map(|der| ureq::tls::Certificate::from_der(der).to_owned());
    let tls =
        ureq::tls::TlsConfig::builder().root_certs(ureq::tls::RootCerts::new_with_certs(&roots.collect::<Vec<_>>()));
    let config = ureq::Agent::config_builder().timeout_global(Some(TIMEOUT)).tls_config(tls.build());
    // What is asked for safely is not answered otherwise; and on this host there is nowhere to be sent to.
    let config = if url.starts_with("https://") { config.https_only(true) } else { config.max_redirects(0) };
    let agent = config.build().new_agent();
    let response = agent.get(url).call().map_err(|error| error.to_string())?;
    Ok(response.into_body())
}

fn in_words(span: SignedDuration) -> String {
    let seconds = span.as_secs();
    if seconds % 60 == 0 && seconds > 0 { format!("{} min", seconds / 60) } else { format!("{seconds} s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn what_was_read_too_long_ago_or_never_is_stale() {
        let followed = Followed::new("inventory.yaml", EVERY, Duration::from_mins(1)).unwrap();
        assert!(followed.stale(at(0)).unwrap().contains("has not been read from inventory.yaml"));
        followed.seen().read_at = Some(at(100));
        assert_eq!(followed.stale(at(160)), None);
        assert!(followed.stale(at(97)).is_some(), "the clock was set back");
        assert_eq!(followed.stale(at(99)), None);
        followed.seen().error = Some("no such file".into());
        let text = followed.stale(at(161)).unwrap();
        assert!(text.contains("1970-01-01T00:01:40Z") && text.ends_with("1 min old at most: no such file"), "{text}");
    }

    #[test]
    fn a_url_in_the_clear_is_of_this_host_only() {
        for (url, good) in [
            ("http://127.0.0.1:8080/i.yaml", true),
            ("http://ops:secret@[::1]/i.yaml", true),
            ("http://[::1]:80", true),
            ("http://localhost:8080/i.yaml", true),
            ("https://cmdb.internal/i.yaml", true),
            ("http://cmdb.internal/i.yaml", false),
            ("http://localhost.example/i.yaml", false),
            ("http://127.0.0.1@cmdb.internal/i.yaml", false),
            ("http://cmdb.internal?@127.0.0.1", false),
            ("http://cmdb.internal#@127.0.0.1", false),
            ("http://cmdb.internal\\@127.0.0.1", false),
            ("http://10.0.0.1/i.yaml", false),
        ] {
            assert_eq!(Followed::new(url, EVERY, MAX_AGE).is_ok(), good, "{url}");
        }
    }

    #[test]
    fn credentials_of_a_url_are_not_shown() {
        let followed =
            Followed::new("https://user:secret@cmdb.internal/v1/inventory?key=secret", EVERY, MAX_AGE).unwrap();
        assert_eq!(followed.name(), "https://cmdb.internal/v1/inventory");
    }
}
