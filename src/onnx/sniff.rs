//! Says what a file that is no ONNX model looks like.

/// What it looks like, with its article, and what to do with it.
pub(super) type Guess = (&'static str, Option<&'static str>);

const EXPORT: &str = "export the model to ONNX, e.g. with `torch.onnx.export`";

/// Guesses by the marks that formats carry in their first bytes. Called only once a file has failed to be ONNX, because
/// protobuf has no mark of its own.
pub(super) fn guess(data: &[u8]) -> Option<Guess> {
    if data.is_empty() {
        return Some(("an empty file", Some("export or download the model again")));
    }
    let starts = |mark: &[u8]| data.starts_with(mark);
    let at = |offset: usize, mark: &[u8]| data.get(offset..).is_some_and(|d| d.starts_with(mark));
    Some(if starts(b"version https://git-lfs") {
        (
            "a Git LFS pointer and not the file itself",
            Some("fetch the file with `git lfs pull`"),
        )
    } else if safetensors(data) {
        (
            "a safetensors file (weights without a graph)",
            Some("give the ONNX model here and the weights with --weights"),
        )
    } else if starts(b"PK\x03\x04") {
        (
            "a zip archive, as PyTorch and NumPy write them",
            Some(EXPORT),
        )
    } else if starts(b"\x80\x02") || starts(b"\x80\x04") {
        ("a Python pickle", Some(EXPORT))
    } else if starts(b"ftrt") || starts(b"ptrt") || starts(b"vtrt") {
        (
            "a TensorRT engine",
            Some("give the ONNX model that it was built from"),
        )
    } else if starts(b"GGUF") {
        ("a GGUF file", Some(EXPORT))
    } else if starts(b"\x89HDF\r\n\x1a\n") {
        ("an HDF5 file", Some(EXPORT))
    } else if at(4, b"TFL3") {
        ("a TensorFlow Lite model", Some(EXPORT))
    } else if at(4, b"ORTM") {
        (
            "a model in ONNX Runtime's own format",
            Some("give the .onnx file that it was made from"),
        )
    } else if starts(b"\x93NUMPY") {
        ("a NumPy array", None)
    } else if starts(b"\x7fELF") {
        ("a program or library", None)
    } else if starts(b"\x1f\x8b") {
        ("a gzip archive", Some("unpack it first"))
    } else if text(data) {
        (
            "text",
            Some("give a binary .onnx file; `onnx.save` writes one from the text forms"),
        )
    } else {
        return None;
    })
}

/// An 8-byte little-endian header length, then JSON.
fn safetensors(data: &[u8]) -> bool {
    let Some((length, rest)) = data.split_first_chunk::<8>() else {
        return false;
    };
    // The format has no magic number; a length that can be and the beginning of a JSON object are
    // as good.
    u64::from_le_bytes(*length) < 1 << 32 && rest.starts_with(b"{\"")
}

fn text(data: &[u8]) -> bool {
    let head = &data[..data.len().min(4096)];
    let valid = match std::str::from_utf8(head) {
        Ok(_) => true,
        // The head may end inside a character.
        Err(e) => e.error_len().is_none(),
    };
    valid
        && !head
            .iter()
            .any(|&b| b < b' ' && !matches!(b, b'\n' | b'\r' | b'\t'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_format_is_told() {
        let accents = "é".repeat(4000);
        let cases: [(&[u8], &str); 9] = [
            (b"", "an empty file"),
            (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS"),
            (b"\x10\0\0\0\0\0\0\0{\"a\":1}", "a safetensors"),
            (b"PK\x03\x04rest", "a zip"),
            (b"ftrt\0\0\0\0", "a TensorRT engine"),
            (b"\x1c\0\0\0TFL3", "a TensorFlow Lite"),
            (b"GGUF\x03", "a GGUF"),
            (b"ir_version: 8\ngraph {\n}\n", "text"),
            (accents.as_bytes(), "text"),
        ];
        for (data, start) in cases {
            let (looks_like, _) = guess(data).unwrap();
            assert!(looks_like.starts_with(start), "{looks_like}");
        }
        assert_eq!(guess(b"\x08\x07\x12\x00"), None);
    }
}
