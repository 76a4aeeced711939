use super::*;
use crate::fault::Explain;
use crate::watch::Silent;
use proptest::prelude::*;
use std::fs;
use std::sync::Mutex;

/// Writes f32 tensors: name, shape, values.
pub(crate) fn write_safetensors(path: &Path, tensors: &[(&str, &[usize], &[f32])]) {
    let data: Vec<Vec<u8>> = (tensors.iter())
        .map(|t| t.2.iter().flat_map(|v| v.to_le_bytes()).collect())
        .collect();
    let views = tensors.iter().zip(&data).map(|((name, shape, _), bytes)| {
        let view =
            safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.to_vec(), bytes);
        (*name, view.unwrap())
    });
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// Writes tensors of any type that the format has.
pub(crate) fn write_tensors(path: &Path, tensors: &[(String, Tensor)]) {
    let views = tensors.iter().map(|(name, t)| {
        let text = format!("\"{}\"", t.dtype.safetensors().unwrap());
        let dtype = serde_json::from_str(&text).unwrap();
        let view = safetensors::tensor::TensorView::new(dtype, t.shape.clone(), &t.data);
        (name.as_str(), view.unwrap())
    });
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

fn raw(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}

fn open_bytes(bytes: &[u8]) -> Result<Source, Error> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    fs::write(&path, bytes).unwrap();
    Source::open(path)
}

#[test]
fn views_have_the_bytes_of_the_file() {
    let s = open_bytes(&raw(
            r#"{"__metadata__":{"k":"v"},"b":{"dtype":"BF16","shape":[2],"data_offsets":[4,8]},"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"e":{"dtype":"F16","shape":[0,3],"data_offsets":[8,8]}}"#,
            &[1, 2, 3, 4, 5, 6, 7, 8],
        ))
        .unwrap();
    assert_eq!(s.names().collect::<Vec<_>>(), ["a", "b", "e"]);
    let b = s.get("b").unwrap();
    assert_eq!(
        (b.dtype, b.shape, b.data),
        (Dtype::Bf16, &[2][..], &[5, 6, 7, 8][..])
    );
    assert!(s.get("e").unwrap().data.is_empty());
    assert!(s.get("c").is_none());
    assert_eq!(s.files()[0].metadata()["k"], "v");
}

#[test]
fn digests_are_of_the_tensors_bytes_and_progress_adds_up() {
    struct Sum(Mutex<(u64, u64)>);
    impl Watch for Sum {
        fn event(&self, event: Event<'_>) {
            let mut sum = self.0.lock().unwrap();
            match event {
                Event::BeginBytes { bytes, .. } => sum.0 = bytes,
                Event::Advance(n) => sum.1 += n,
                _ => {}
            }
        }
    }
    let s = open_bytes(&raw(
            r#"{"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},"b":{"dtype":"U8","shape":[1],"data_offsets":[3,4]}}"#,
            &[1, 2, 3, 4],
        ))
        .unwrap();
    let sum = Sum(Mutex::new((0, 0)));
    let digests = s.digests(&sum);
    assert_eq!(digests["a"], Digest::of(&[1, 2, 3]));
    assert_eq!(digests, s.digests(&Silent));
    assert_eq!(*sum.0.lock().unwrap(), (4, 4));
}

/// What is wrong, the file's bytes, and the code of the error.
type Case = (&'static str, Vec<u8>, &'static str);

fn each_is_refused(cases: &[Case]) {
    for (what, bytes, code) in cases {
        let e = open_bytes(bytes).expect_err(what);
        assert_eq!(e.code(), *code, "{what}: {e}");
        assert!(e.to_string().contains("x.safetensors"), "{what}: {e}");
        assert!(!e.hints().is_empty(), "{what}");
    }
}

#[test]
fn hostile_files_are_refused_with_their_code() {
    let one = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
    each_is_refused(&[
        ("zero length", vec![], "weights-empty"),
        ("shorter than a length", vec![1, 0, 0], "weights-header"),
        ("data cut", raw(one, &[0; 7]), "weights-length"),
        ("data too long", raw(one, &[0; 9]), "weights-length"),
        (
            "header cut",
            raw(one, &[0; 8])[..20].to_vec(),
            "weights-length",
        ),
        (
            "header beyond the limit",
            u64::MAX.to_le_bytes().to_vec(),
            "weights-header",
        ),
        (
            "header not UTF-8",
            [&2u64.to_le_bytes()[..], &[0xff, 0xfe]].concat(),
            "weights-header",
        ),
        ("header no JSON", raw("{]", &[]), "weights-header"),
        ("header no object", raw("[]", &[]), "weights-header"),
    ]);
}

#[test]
fn tensors_that_cannot_be_are_refused_with_their_code() {
    each_is_refused(&[
        (
            "hole",
            raw(
                r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#,
                &[0; 8],
            ),
            "weights-header",
        ),
        (
            "overlap",
            raw(
                r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}}"#,
                &[0; 6],
            ),
            "weights-header",
        ),
        (
            "backwards",
            raw(
                r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}"#,
                &[0; 4],
            ),
            "weights-header",
        ),
        (
            "shape does not fit",
            raw(
                r#"{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}"#,
                &[0; 8],
            ),
            "weights-header",
        ),
        (
            "shape overflows",
            raw(
                r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]}}"#,
                &[0; 8],
            ),
            "weights-header",
        ),
        (
            "negative extent",
            raw(
                r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,8]}}"#,
                &[0; 8],
            ),
            "weights-header",
        ),
        (
            "unknown type",
            raw(
                r#"{"a":{"dtype":"F128","shape":[1],"data_offsets":[0,8]}}"#,
                &[0; 8],
            ),
            "weights-header",
        ),
        (
            "6-bit floats",
            raw(
                r#"{"a":{"dtype":"F6_E2M3","shape":[4],"data_offsets":[0,3]}}"#,
                &[0; 3],
            ),
            "weights-dtype",
        ),
        (
            "repeated name",
            raw(
                r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"I32","shape":[1],"data_offsets":[0,4]}}"#,
                &[0; 4],
            ),
            "weights-repeated-name",
        ),
    ]);
}

#[test]
fn other_formats_are_refused_with_their_code() {
    each_is_refused(&[
        (
            "zip pickle",
            b"PK\x03\x04\x00\x00\x08\x08\x00\x00\x00\x00".to_vec(),
            "weights-format",
        ),
        (
            "zip pickle with plain flags",
            b"PK\x03\x04\x00\x00\x00\x00\x00\x00\x00\x00".to_vec(),
            "weights-format",
        ),
        (
            "old pickle",
            b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.".to_vec(),
            "weights-format",
        ),
        (
            "gguf",
            b"GGUF\x03\x00\x00\x00\x00\x00\x00\x00".to_vec(),
            "weights-format",
        ),
    ]);
}

#[test]
fn a_cut_file_says_by_how_much() {
    let one = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
    let whole = raw(one, &[0; 8]);
    match open_bytes(&whole[..whole.len() - 3]) {
        Err(Error::Length {
            expected, actual, ..
        }) => {
            assert_eq!(
                (expected, actual),
                (whole.len() as u64, whole.len() as u64 - 3)
            );
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_pickle_hint_converts_it() {
    let e = open_bytes(b"PK\x03\x04\x00\x00\x08\x08\x00\x00\x00\x00").unwrap_err();
    assert!(e.hints()[0].contains("save_file"));
}

#[test]
fn a_name_in_two_files_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (
        dir.path().join("a.safetensors"),
        dir.path().join("b.safetensors"),
    );
    write_safetensors(&a, &[("x", &[1], &[1.0]), ("y", &[1], &[1.0])]);
    write_safetensors(&b, &[("y", &[1], &[1.0]), ("z", &[1], &[1.0])]);
    match Source::open_all(&[&a, &b]) {
        Err(Error::Duplicate { names }) => assert_eq!(names, [("y".into(), a, b)]),
        other => panic!("{other:?}"),
    }
    assert!(matches!(Source::open_all::<&Path>(&[]), Err(Error::None)));
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = open_bytes(&bytes);
    }

    #[test]
    fn random_headers_never_panic(
        dtype in prop::sample::select(vec!["F32", "BF16", "F4", "F6_E3M2", "I64", "BOOL"]),
        shape in prop::collection::vec(any::<u64>().prop_map(|n| if n % 2 == 0 { n % 9 } else { n }), 0..4),
        from in any::<u64>().prop_map(|n| if n % 3 == 0 { n } else { 0 }),
        to in any::<u64>().prop_map(|n| if n % 3 == 0 { n } else { n % 64 }),
        data in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let header = format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{from},{to}]}}}}"#);
        if let Ok(s) = open_bytes(&raw(&header, &data)) {
            prop_assert_eq!(s.get("a").unwrap().data, &data[..]);
        }
    }

    #[test]
    fn a_flipped_byte_never_panics(at in 0usize..70, bit in 0u8..8) {
        let mut bytes = raw(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#, &[0; 8]);
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        let _ = open_bytes(&bytes);
    }
}
