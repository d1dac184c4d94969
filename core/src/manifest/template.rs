//! A target as it is written, with `{placeholders}` that each region fills in.

use crate::diagnostic::Place;
use crate::inventory::Vars;
use crate::name::{Name, instead};
use crate::target::{Scheme, Target, TargetError};
use crate::text::escape;

/// A target as written: where it stands, and what it is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Template {
    /// The key that it is the value of.
    key: &'static str,
    text: String,
    pub(crate) place: Place,
    /// Written out, never a placeholder: what may be required and which options apply depends on it.
    pub(crate) scheme: Scheme,
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Literal(String),
    Placeholder(Name),
}

/// What is wrong with a target: the message, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wrong {
    pub(crate) message: String,
    pub(crate) fix: String,
}

fn wrong(message: impl Into<String>, fix: impl Into<String>) -> Wrong {
    Wrong { message: message.into(), fix: fix.into() }
}

fn form() -> String {
    format!("write it as scheme://host:port, with one of {}, for example redis://cache.internal:6379", Scheme::list())
}

impl Template {
    /// Checks braces and names, the scheme, and all of the rest that does not wait for a region.
    pub(crate) fn parse(key: &'static str, text: &str, place: Place) -> Result<Self, Wrong> {
        let pieces = pieces(key, text)?;
        let Some((scheme, _)) = text.split_once("://") else {
            return Err(wrong(format!("{key} '{}' has no scheme", escape(text)), form()));
        };
        if scheme.contains('{') {
            return Err(wrong(
                format!("{key} '{}' has a placeholder for its scheme", escape(text)),
                "write the scheme out; where regions differ use targets: {region: url, …}",
            ));
        }
        let scheme = if let (Some(name), Some(number)) = (sample(text, 'x'), sample(text, '1')) {
            let target = name.parse::<Target>().or_else(|error| number.parse().map_err(|_| error));
            target.map(|target| target.scheme).map_err(|error| error.to_string())
        } else {
            // What is in brackets has no likely value; its region will show.
            let known = Scheme::ALL.into_iter().find(|s| s.as_str().eq_ignore_ascii_case(scheme));
            known.ok_or_else(|| format!("no probe speaks '{scheme}'"))
        };
        match scheme {
            Ok(scheme) => Ok(Self { key, text: text.to_owned(), place, scheme, pieces }),
            Err(error) => Err(wrong(format!("{key} '{}' is not valid: {}", escape(text), escape(&error)), form())),
        }
    }

    /// The target in a region.
    pub(crate) fn resolve(&self, region: &Name, vars: &Vars) -> Result<Target, Wrong> {
        let mut resolved = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Literal(text) => resolved.push_str(text),
                Piece::Placeholder(name) if *name == "region" => resolved.push_str(region.as_str()),
                Piece::Placeholder(name) => {
                    let value = vars.get(name).ok_or_else(|| {
                        let known: Vec<&str> = vars.keys().map(Name::as_str).chain(["region"]).collect();
                        wrong(
                            format!(
                                "region {region} has no value for {{{name}}} in {} '{}'",
                                self.key,
                                escape(&self.text)
                            ),
                            format!(
                                "add {name} to regions.{region}.vars in the inventory, or use another; {}",
                                instead(name.as_str(), known)
                            ),
                        )
                    })?;
                    resolved.push_str(value);
                }
            }
        }
        resolved.parse().map_err(|error: TargetError| {
            wrong(
                format!(
                    "{} '{}' is '{}' in region {region}, which is not valid: {}",
                    self.key,
                    escape(&self.text),
                    escape(&resolved),
                    escape(&error.to_string())
                ),
                format!("change the {}, or regions.{region}.vars in the inventory", self.key),
            )
        })
    }

    /// Whether something follows host and port.
    pub(crate) fn has_path(&self) -> bool {
        self.text
            .split_once("://")
            .is_some_and(|(_, rest)| rest.strip_suffix('/').unwrap_or(rest).contains(['/', '?', '#']))
    }

    /// The text as it is written.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }
}

fn pieces(key: &str, text: &str) -> Result<Vec<Piece>, Wrong> {
    let unbalanced = || {
        wrong(
            format!("{key} '{}' has a brace without its other half", escape(text)),
            "write placeholders as {name}, each with both braces",
        )
    };
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        let (literal, from_brace) = rest.split_at(at);
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal.to_owned()));
        }
        let inside = from_brace.strip_prefix('{').ok_or_else(unbalanced)?;
        let (name, after) = inside.split_once('}').ok_or_else(unbalanced)?;
        if name.contains('{') {
            return Err(unbalanced());
        }
        let name = name.parse::<Name>().map_err(|error| {
            wrong(
                format!("{{{}}} is not a placeholder: {error}", escape(name)),
                format!("{}, such as {{region}}", error.fix()),
            )
        })?;
        pieces.push(Piece::Placeholder(name));
        rest = after;
    }
    if !rest.is_empty() {
        pieces.push(Piece::Literal(rest.to_owned()));
    }
    Ok(pieces)
}

/// The text with likely values in its placeholders: a digit in the port, `host` before. None where an IPv6 address is to be
/// put together.
fn sample(text: &str, host: char) -> Option<String> {
    if !text.contains('{') {
        return Some(text.to_owned());
    }
    let (scheme, rest) = text.split_once("://")?;
    if rest.contains('[') {
        return None;
    }
    let mut sample = format!("{scheme}://");
    let mut inside = false;
    let mut in_port = false;
    for c in rest.chars() {
        match c {
            '{' => {
                inside = true;
                sample.push(if in_port { '1' } else { host });
            }
            '}' => inside = false,
            _ if inside => {}
            c => {
                in_port |= c == ':';
                sample.push(c);
            }
        }
    }
    Some(sample)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Template, Wrong> {
        Template::parse("target", text, Place::START)
    }

    fn vars(pairs: &[(&str, &str)]) -> Vars {
        pairs.iter().map(|(k, v)| (k.parse().unwrap(), (*v).to_owned())).collect()
    }

    #[test]
    fn placeholders_are_filled_in_for_each_region() {
        let eu: Name = "eu".parse().unwrap();
        for (text, want) in [
            ("redis://cache.{dns}.internal", "redis://cache.eu-west-1.internal:6379"),
            ("tcp://{region}.example:{port}", "tcp://eu.example:7000"),
            ("tcp://10.{net}.0.1:8{two}", "tcp://10.3.0.1:822"),
            ("tcp://[fd00::{net}]:1", "tcp://[fd00::3]:1"),
            ("tcp://{region}{region}:1", "tcp://eueu:1"),
        ] {
            let vars = vars(&[("dns", "eu-west-1"), ("port", "7000"), ("net", "3"), ("two", "22")]);
            assert_eq!(parse(text).unwrap().resolve(&eu, &vars).unwrap().to_string(), want, "{text}");
        }
    }

    #[test]
    fn a_placeholder_without_a_value_names_region_and_vars() {
        let template = parse("redis://cache.{dsn}.internal").unwrap();
        let wrong = template.resolve(&"eu".parse().unwrap(), &vars(&[("dns", "x")])).unwrap_err();
        assert!(wrong.message.contains("region eu has no value for {dsn}"), "{}", wrong.message);
        assert!(wrong.fix.contains("did you mean 'dns'? known: dns, region"), "{}", wrong.fix);
    }

    #[test]
    fn what_a_region_makes_of_it_must_be_a_target() {
        let template = parse("tcp://cache:{port}").unwrap();
        let wrong = template.resolve(&"eu".parse().unwrap(), &vars(&[("port", "http")])).unwrap_err();
        assert!(wrong.message.contains("'tcp://cache:http' in region eu"), "{}", wrong.message);
    }

    #[test]
    fn refused_at_once() {
        for (text, says) in [
            ("cache:6379", "no scheme"),
            ("redis://a{b", "brace"),
            ("redis://a}b", "brace"),
            ("redis://a{{b}}", "brace"),
            ("redis://a{}", "{} is not a placeholder"),
            ("redis://a{B}", "{B} is not a placeholder"),
            ("redis://a{b c}", "is not a placeholder"),
            ("{scheme}://a:1", "placeholder for its scheme"),
            ("ftp://{region}.example", "ftp"),
            ("gopher://[{a}]:1", "gopher"),
            ("redis://u:{pw}@cache", "password"),
            ("redis://{region}/0", "/0"),
            ("tcp://{region}", "port"),
            ("redis://c\u{430}che.{dns}", "host name"),
        ] {
            let wrong = parse(text).unwrap_err();
            assert!(wrong.message.contains(says), "{text}: {}", wrong.message);
        }
    }
}
