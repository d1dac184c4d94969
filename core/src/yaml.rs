//! Reads a YAML file that a person wrote, strictly: bounded, without aliases, tags or hidden characters, and every
//! value with where it stands.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::ops::RangeInclusive;

use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_saphyr::budget::BudgetBreach;
use serde_saphyr::{DuplicateKeyPolicy, Error, Location, MergeKeyPolicy, Spanned};

use crate::diagnostic::{Diagnostic, Place};
use crate::name::{Name, NameError, nearest};
use crate::text::{escape, is_plain};

/// The longest text.
pub(crate) const MAX_BYTES: usize = 256 * 1024;
/// The deepest nesting. The contract's files need six.
const MAX_DEPTH: usize = 16;

/// Reads `text` as a `T`. `example` is the shortest text that would be right, for those who have none yet; `max_nodes` is how
/// many keys, values, mappings and lists are read.
pub(crate) fn read<T: DeserializeOwned>(
    file: &str,
    text: &str,
    example: &str,
    max_nodes: usize,
) -> Result<T, Diagnostic> {
    check_size(file, text)?;
    // A byte order mark at the very start says nothing but "UTF-8" (YAML 1.2.2, 5.2).
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    check_characters(file, text)?;
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_aliases: 0,
            max_anchors: 0,
            max_depth: MAX_DEPTH,
            flow_nesting_limit: MAX_DEPTH,
            max_documents: 1,
            max_nodes: max_nodes,
            max_events: max_nodes * 2
        },
        duplicate_keys: DuplicateKeyPolicy::Error,
        merge_keys: MergeKeyPolicy::Error,
        reject_unsupported_tags: true,
        reject_tagged_field_names: true,
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let place = error.location().map_or(Place::START, place);
        let (message, fix) = explain(&error, example);
        Diagnostic::new(file, place, message, fix)
    })
}

fn check_size(file: &str, text: &str) -> Result<(), Diagnostic> {
    if text.len() <= MAX_BYTES {
        return Ok(());
    }
    let read = text.as_bytes().iter().take(MAX_BYTES);
    let line = read.fold(1, |line, byte| line + u32::from(*byte == b'\n'));
    let place = Place { line, column: 1 };
    Err(Diagnostic::new(
        file,
        place,
        format!(
            "the file has {} bytes, and at most {MAX_BYTES} are read; the limit is reached on this line",
            text.len()
        ),
        "make the file smaller, or split it over several applications",
    ))
}

/// Refuses what a reviewer cannot see: control, bidirectional and invisible characters, in comments too.
fn check_characters(file: &str, text: &str) -> Result<(), Diagnostic> {
    let mut place = Place::START;
    let mut after_return = false;
    for c in text.chars() {
        match c {
            '\n' if after_return => {}
            '\n' | '\r' => place = Place { line: place.line + 1, column: 1 },
            '\t' => place.column += 1,
            c if is_plain(c) => place.column += 1,
            c => {
                return Err(Diagnostic::new(
                    file,
                    place,
                    format!(
                        "the character U+{:04X} here cannot be seen, or changes how the text around it reads",
                        u32::from(c)
                    ),
                    "delete it; to find it, show invisible characters in your editor",
                ));
            }
        }
        after_return = c == '\r';
    }
    Ok(())
}

fn place(location: Location) -> Place {
    let one = |n: u64| u32::try_from(n).unwrap_or(u32::MAX).max(1);
    Place { line: one(location.line()), column: one(location.column()) }
}

/// What is wrong, and what to write instead.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "another crate's error: kinds that need no words of ours fall through"
)]
fn explain(error: &Error, example: &str) -> (String, String) {
    match error {
        Error::SerdeUnknownField { field, expected, .. } => {
            let near = nearest(field, expected.iter().copied());
            let near = near.map(|near| format!("write '{near}', or ")).unwrap_or_default();
            (
                format!("unknown key '{}'", escape(field)),
                format!("{near}leave it out; the keys here are {}", expected.join(", ")),
            )
        }
        Error::SerdeMissingField { field, .. } => {
            (format!("the key '{field}' is missing"), format!("add '{field}: …', as in: {example}"))
        }
        Error::DuplicateMappingKey { key, .. } => (
            format!("'{}' is here for the second time", escape(key.as_deref().unwrap_or("this key"))),
            "remove one of the two, or give it another name".to_owned(),
        ),
        Error::Eof { .. } => ("the file has no content".to_owned(), format!("write at least: {example}")),
        Error::Unexpected { expected: "mapping start", .. } => {
            ("this must be a mapping".to_owned(), format!("write keys with values, as in: {example}"))
        }
        Error::Unexpected { expected: "sequence start", .. } => {
            ("this must be a list".to_owned(), "write it in brackets: [a, b]".to_owned())
        }
        Error::Unexpected { expected: "string scalar", .. } => {
            ("this must be a single value".to_owned(), "write a text or number, no list or mapping".to_owned())
        }
        Error::Unexpected { expected, .. } => (format!("expected {expected}"), format!("write it as in: {example}")),
        Error::SerdeInvalidType { unexpected, expected, .. } => {
            (format!("this is {}, expected {expected}", escape(unexpected)), format!("write {expected}"))
        }
        Error::NullIntoString { .. } => (
            "a value is missing here".to_owned(),
            "write a value, or leave the key out; quote a name that YAML takes for nothing: \"null\"".to_owned(),
        ),
        Error::MultipleDocuments { .. } | Error::Budget { breach: BudgetBreach::Documents { .. }, .. } => {
            ("a second document begins here".to_owned(), "keep one document in the file and remove '---'".to_owned())
        }
        Error::UnknownAnchor { .. }
        | Error::AliasError { .. }
        | Error::Budget { breach: BudgetBreach::Aliases { .. } | BudgetBreach::Anchors { .. }, .. } => (
            "anchors and aliases (&name, *name) are not read".to_owned(),
            "write the value out; quote a value that begins with & or *".to_owned(),
        ),
        Error::MergeKeyNotAllowed { .. } => {
            ("merge keys (<<) are not read".to_owned(), "write the keys out".to_owned())
        }
        Error::UnsupportedTag { .. }
        | Error::TaggedStructFieldName { .. }
        | Error::TaggedScalarCannotDeserializeIntoString { .. } => {
            ("tags (!name) are not read".to_owned(), "remove the tag; quote a value that begins with !".to_owned())
        }
        Error::Budget { breach: BudgetBreach::Depth { .. }, .. } => too_deep(),
        Error::Budget { breach: BudgetBreach::Nodes { .. } | BudgetBreach::Events { .. }, .. } => (
            "the file holds more keys and values than are read; the limit is reached here".to_owned(),
            "make the file smaller, or split it over several applications".to_owned(),
        ),
        Error::ExternalMessage { msg, .. } if msg.contains("recursion limit") => too_deep(),
        Error::ExternalMessage { msg, .. } if msg.contains("tab") => {
            (format!("this is not YAML: {}", escape(msg)), "indent with spaces".to_owned())
        }
        Error::ExternalMessage { msg, .. } => (
            format!("this is not YAML: {}", escape(msg)),
            "check indentation, quotes and brackets here and in the line above; quote values with ': ', '#', '@' or '{'"
                .to_owned(),
        ),
        Error::Message { msg, .. } => (escape(msg), format!("write it as in: {example}")),
        other => {
            let text = other.to_string();
            let text = text.rsplit_once(" at line ").map_or(text.as_str(), |(text, _)| text);
            (escape(text), format!("write it as in: {example}"))
        }
    }
}

fn too_deep() -> (String, String) {
    (format!("this is nested more than {MAX_DEPTH} levels deep"), "remove brackets or indentation".to_owned())
}

/// A value and where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) place: Place,
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for At<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<T>::deserialize(deserializer)?;
        Ok(Self { value: spanned.value, place: place(spanned.referenced) })
    }
}

impl<T: schemars::JsonSchema> schemars::JsonSchema for At<T> {
    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        T::json_schema(generator)
    }

    fn inline_schema() -> bool {
        T::inline_schema()
    }
}

/// A mapping with names for keys, in the order as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entries<T>(pub(crate) Vec<(At<String>, T)>);

impl<T> Default for Entries<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Entries<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for InOrder<T> {
            type Value = Entries<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping of names")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries<T>, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }

        deserializer.deserialize_map(InOrder(PhantomData))
    }
}

impl<T: schemars::JsonSchema> schemars::JsonSchema for Entries<T> {
    fn schema_name() -> Cow<'static, str> {
        format!("MapOf{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let value = generator.subschema_for::<T>();
        schemars::json_schema!({ "type": "object", "additionalProperties": value })
    }

    fn inline_schema() -> bool {
        true
    }
}

/// For optional keys: one that is written must have a value, since an empty one may be a mistake.
pub(crate) fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// The file that an error is about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source<'a>(pub(crate) &'a str);

impl Source<'_> {
    pub(crate) fn error(self, place: Place, message: impl Into<String>, fix: impl Into<String>) -> Diagnostic {
        Diagnostic::new(self.0, place, message, fix)
    }

    /// The value as a name.
    pub(crate) fn name(self, at: &At<String>) -> Result<Name, Diagnostic> {
        at.value.parse().map_err(|error: NameError| self.error(at.place, error.to_string(), error.fix()))
    }

    /// The value as a whole number within `range`.
    pub(crate) fn whole(self, key: &str, at: &At<String>, range: RangeInclusive<u32>) -> Result<u32, Diagnostic> {
        let digits = at.value.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| at.value.parse().ok()).flatten().filter(|n| range.contains(n)).ok_or_else(|| {
            self.error(
                at.place,
                format!("{key} cannot be '{}'", escape(&at.value)),
                format!("write a whole number from {} to {}", range.start(), range.end()),
            )
        })
    }
}
