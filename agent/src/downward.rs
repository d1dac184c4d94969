//! What Kubernetes tells a pod of itself (the downward API):
//! <https://kubernetes.io/docs/concepts/workloads/pods/downward-api/>.
//!
//! Read from the environment: `POD_NAMESPACE`, `POD_NAME`, `POD_IP`, `NODE_NAME`, `SERVICE_ACCOUNT`; and from a volume
//! at `/etc/podinfo`: `labels` and `namespace`. Labels count only if `PREFLIGHT_IDENTITY_LABELS` names them
//! (`app,role`), since most have nothing to do with network policy; `pod-template-hash` never does.

use std::fs;
use std::path::Path;

use preflight_core::identity::NetworkIdentity;

/// Where the downward API's volume is mounted by convention.
pub const DIR: &str = "/etc/podinfo";

/// Adds what is known of the pod. `env` looks up an environment variable.
pub fn read(identity: &mut NetworkIdentity, dir: &Path, env: impl Fn(&str) -> Option<String>) {
    let env = |name| env(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
    let namespace = fs::read_to_string(dir.join("namespace")).ok().map(|text| text.trim().to_owned());
    for (attribute, value) in [
        ("namespace", namespace.filter(|text| !text.is_empty()).or_else(|| env("POD_NAMESPACE"))),
        ("service_account", env("SERVICE_ACCOUNT")),
        ("pod", env("POD_NAME")),
        ("node", env("NODE_NAME")),
        ("address", env("POD_IP")),
    ] {
        if let Some(value) = value {
            identity.insert(attribute, value);
        }
    }
    let chosen = env("PREFLIGHT_IDENTITY_LABELS").unwrap_or_default();
    let chosen: Vec<&str> = chosen.split(',').map(str::trim).filter(|name| *name != "pod-template-hash").collect();
    let labels = fs::read_to_string(dir.join("labels")).unwrap_or_default();
    for (name, value) in labels.lines().filter_map(label) {
        if chosen.contains(&name) {
            identity.insert(format!("label.{name}"), value);
        }
    }
}

/// `name="value"`, the value quoted as Go does; a label's value holds nothing that needs an escape
/// (<https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#syntax-and-character-set>).
fn label(line: &str) -> Option<(&str, String)> {
    let (name, value) = line.split_once('=')?;
    let value = value.trim().strip_prefix('"')?.strip_suffix('"')?;
    Some((name.trim(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("namespace"), "shop\n").unwrap();
        let labels = "app=\"web\"\nrole=\"front\"\npod-template-hash=\"abc\"\nteam=\"x\"\nbroken\n";
        fs::write(dir.path().join("labels"), labels).unwrap();
        let env = |name: &str| match name {
            "POD_NAMESPACE" => Some("other".to_owned()),
            "POD_NAME" => Some("web-1".to_owned()),
            "NODE_NAME" => Some(String::new()),
            "PREFLIGHT_IDENTITY_LABELS" => Some("app, role,pod-template-hash,absent".to_owned()),
            _ => None,
        };
        let mut identity = NetworkIdentity::default();
        read(&mut identity, dir.path(), env);
        assert_eq!(identity.key().0, "label.app=web label.role=front namespace=shop");
        assert!(identity.0.contains_key("pod") && !identity.0.contains_key("node"));
    }

    #[test]
    fn no_pod() {
        let dir = tempfile::tempdir().unwrap();
        let mut identity = NetworkIdentity::default();
        read(&mut identity, dir.path(), |_| None);
        assert_eq!(identity, NetworkIdentity::default());
    }
}
