//! BLAKE3 digests of bytes and of labelled fields.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// Above this many bytes a digest is computed on all cores; below, threads cost more than they save.
const PARALLEL_FROM: usize = 1 << 20;

/// A BLAKE3 digest; written as `blake3:` and 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// Digest of `bytes`, on all cores where they are many.
    pub fn of(bytes: &[u8]) -> Digest {
        let mut h = blake3::Hasher::new();
        if bytes.len() >= PARALLEL_FROM {
            h.update_rayon(bytes);
        } else {
            h.update(bytes);
        }
        Digest(*h.finalize().as_bytes())
    }

    /// The first 12 hex digits, for people.
    pub fn short(&self) -> String {
        self.hex()[..12].to_owned()
    }

    /// All 64 hex digits, without the prefix.
    pub fn hex(&self) -> String {
        blake3::Hash::from_bytes(self.0).to_hex().to_string()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "blake3:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not `blake3:` followed by 64 hex digits.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a digest (`blake3:` and 64 hex digits)")]
pub struct ParseDigestError(String);

impl FromStr for Digest {
    type Err = ParseDigestError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let wrong = || ParseDigestError(s.to_owned());
        let hex = s.strip_prefix("blake3:").ok_or_else(wrong)?;
        let hash = blake3::Hash::from_hex(hex).map_err(|_| wrong())?;
        Ok(Digest(*hash.as_bytes()))
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let s = <std::borrow::Cow<'de, str>>::deserialize(d)?;
        s.parse().map_err(serde::de::Error::custom)
    }
}

/// A digest of bytes that come piece by piece.
#[derive(Debug, Default)]
pub struct DigestWriter(blake3::Hasher);

impl DigestWriter {
    /// Takes the next piece.
    pub fn update(&mut self, piece: &[u8]) {
        if piece.len() >= PARALLEL_FROM {
            self.0.update_rayon(piece);
        } else {
            self.0.update(piece);
        }
    }

    /// The digest of all pieces.
    pub fn finish(&self) -> Digest {
        Digest(*self.0.finalize().as_bytes())
    }
}

/// Hashes labelled fields so that no two different field lists give the same bytes:
/// every label and value goes in with its length before it.
#[derive(Default)]
pub struct LabelledHasher(blake3::Hasher);

impl LabelledHasher {
    /// A hasher whose first field is the name of the format, e.g. `trtmut.structure/1`.
    pub fn new(format: &str) -> Self {
        let mut h = Self(blake3::Hasher::new());
        h.field("format", format.as_bytes());
        h
    }

    pub fn field(&mut self, label: &str, value: &[u8]) -> &mut Self {
        for part in [label.as_bytes(), value] {
            self.0.update(&(part.len() as u64).to_le_bytes());
            self.0.update(part);
        }
        self
    }

    /// The digest of everything added so far.
    pub fn finish(&self) -> Digest {
        Digest(*self.0.finalize().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_leads_back_and_wrong_text_is_refused() {
        let d = Digest::of(b"x");
        assert_eq!(d.to_string().parse::<Digest>().unwrap(), d);
        assert!("blake3:00".parse::<Digest>().is_err());
        assert!(d.hex().parse::<Digest>().is_err());
    }

    #[test]
    fn parallel_and_plain_hashing_agree() {
        let bytes = vec![7u8; PARALLEL_FROM + 3];
        assert_eq!(Digest::of(&bytes).0, *blake3::hash(&bytes).as_bytes());
    }

    #[test]
    fn field_borders_count() {
        let a = LabelledHasher::new("f").field("ab", b"c").finish();
        let b = LabelledHasher::new("f").field("a", b"bc").finish();
        assert_ne!(a, b);
    }
}
