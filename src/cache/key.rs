//! Keys: the digest of labelled fields.

use crate::tensor::{Digest, LabelledHasher};
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;
use std::path::Path;

/// Version of the key's own rule. It goes into the key, so a changed rule makes new keys instead of wrong hits.
const FORMAT: &str = "trtmut.engine-key/1";

/// What an entry depends on, field by field, in clear text. The caller gives each value in a canonical form: the same
/// meaning must be the same text in every process and on every machine.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct KeyFields {
    /// Labels and values one behind the other: a list of ten thousand entries has them all in memory.
    text: String,
    /// Where each label and each value ends.
    ends: Vec<[usize; 2]>,
}

impl KeyFields {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a field. The order in which fields are added is kept for people, and does not count in the key.
    ///
    /// # Panics
    /// When there is a field of this label already: one of the two values would be lost to people.
    #[must_use]
    pub fn with(mut self, label: impl Into<String>, value: impl Into<String>) -> Self {
        let label = label.into();
        assert!(
            self.get(&label).is_none(),
            "the key field `{label}` is given twice"
        );
        self.push(&label, &value.into());
        self
    }

    fn push(&mut self, label: &str, value: &str) {
        self.text.push_str(label);
        let middle = self.text.len();
        self.text.push_str(value);
        self.ends.push([middle, self.text.len()]);
    }

    /// Value of a field.
    pub fn get(&self, label: &str) -> Option<&str> {
        self.iter().find(|(l, _)| *l == label).map(|(_, v)| v)
    }

    /// Labels and values in the order in which they were added.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut start = 0;
        self.ends.iter().map(move |&[middle, end]| {
            let field = (&self.text[start..middle], &self.text[middle..end]);
            start = end;
            field
        })
    }

    /// The key of these fields.
    pub fn key(&self) -> Key {
        let mut sorted: Vec<_> = self.iter().collect();
        sorted.sort_unstable();
        let mut hasher = LabelledHasher::new(FORMAT);
        for (label, value) in sorted {
            hasher.field(label, value.as_bytes());
        }
        Key(hasher.finish())
    }
}

impl fmt::Debug for KeyFields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// As a list of pairs, which keeps their order.
impl Serialize for KeyFields {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(self.iter())
    }
}

impl<'de> Deserialize<'de> for KeyFields {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<KeyFields, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = KeyFields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of pairs of label and value")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut pairs: A) -> Result<KeyFields, A::Error> {
                let mut fields = KeyFields::new();
                while let Some((Text(label), Text(value))) = pairs.next_element()? {
                    fields.push(&label, &value);
                }
                Ok(fields)
            }
        }
        from.deserialize_seq(Pairs)
    }
}

/// Borrowed where the text is as it was written.
#[derive(Deserialize)]
#[serde(transparent)]
struct Text<'t>(#[serde(borrow)] Cow<'t, str>);

/// Name of an entry: 64 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Key(pub(super) Digest);

impl Key {
    /// The first 12 digits, for people.
    pub fn short(&self) -> String {
        self.0.short()
    }

    /// Reads the 64 digits.
    pub fn parse(text: &str) -> Option<Key> {
        // The digest's own parser also takes capitals, but a folder of that name is not where this key's entry is.
        let lower = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if !text.bytes().all(lower) {
            return None;
        }
        format!("blake3:{text}").parse().ok().map(Key)
    }

    pub(super) fn of_path(path: &Path) -> Option<Key> {
        path.file_name()?.to_str().and_then(Key::parse)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.hex())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn text_form_leads_back_and_other_text_is_refused() {
        let key = KeyFields::new().with("a", "1").key();
        assert_eq!(Key::parse(&key.to_string()), Some(key));
        assert!(key.to_string().starts_with(&key.short()));
        for wrong in [
            "",
            "ab",
            &key.to_string().to_uppercase(),
            "../x",
            &format!("{key}0"),
        ] {
            assert_eq!(Key::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_key_of_given_fields_never_changes() {
        // A changed rule would make every existing cache miss; then FORMAT has to change, and this line with it.
        let key = KeyFields::new()
            .with("structure", "s")
            .with("profile", "p")
            .key();
        assert_eq!(key.short(), KEY_OF_S_P);
    }
    const KEY_OF_S_P: &str = "0f56386af53c";

    #[test]
    #[should_panic(expected = "`a` is given twice")]
    fn a_label_is_given_once() {
        let _ = KeyFields::new().with("a", "1").with("a", "1");
    }

    proptest! {
        #[test]
        fn order_does_not_count_and_everything_else_does(
            fields in proptest::collection::btree_map("[a-z.]{1,6}", "\\PC{0,8}", 1..6),
            turn in 0usize..6,
            grow in "[a-z]{1,2}",
        ) {
            let list: Vec<_> = fields.into_iter().collect();
            let key = |list: &[(String, String)]| {
                list.iter().fold(KeyFields::new(), |f, (l, v)| f.with(l, v)).key()
            };
            let mut turned = list.clone();
            turned.rotate_left(turn % list.len());
            prop_assert_eq!(key(&list), key(&turned));
            let at = turn % list.len();
            let mut changed = list.clone();
            changed[at].1.push_str(&grow);
            prop_assert_ne!(key(&list), key(&changed));
            // Bytes moved from the value to the label are other fields.
            let mut moved = changed.clone();
            moved[at] = (format!("{}{grow}", list[at].0), list[at].1.clone());
            if !list.iter().any(|(l, _)| *l == moved[at].0) {
                prop_assert_ne!(key(&moved), key(&changed));
            }
            let mut fewer = list.clone();
            fewer.remove(at);
            prop_assert_ne!(key(&list), key(&fewer));
        }
    }
}
