//! Tensor files that people feed to a run and save from it: safetensors, npz and npy. Types are kept as they are.

use crate::fault::Explain;
use crate::fsx::{self, Map};
use crate::tensor::{Dtype, NamedTensors, Tensor, element_count, permute};
use npyz::{DType, NpyFile, Order, TypeChar, WriterBuilder};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView as StView;
use std::io::{Cursor, Read, Seek, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// Why a tensor file cannot be read or written.
#[derive(Debug, thiserror::Error, Explain)]
pub enum Error {
    /// The name ends in none of the known ways.
    #[error("`{path}` is neither .safetensors, .npz nor .npy", path = .0.display())]
    #[explain(code = "tensor-file-kind", class = Input, hint("name the file *.safetensors, *.npz or *.npy after what it holds"))]
    Kind(PathBuf),
    /// A file of Python objects.
    #[error("`{path}` is a file of Python's pickle (torch.save): reading it can run any code, so it is not read", path = .0.display())]
    #[explain(code = "tensor-file-pickle", class = Input,
        hint("save the tensors again: `safetensors.torch.save_file({{\"NAME\": tensor, …}}, \"{}\")`", _0.with_extension("safetensors").display()))]
    Pickle(PathBuf),
    /// The contents are not what the name says.
    #[error("`{path}` cannot be read as {kind}: {reason}", path = .path.display())]
    #[explain(code = "tensor-file-malformed", class = Input)]
    Malformed {
        path: PathBuf,
        /// What its name promises: `safetensors`, `npz`, `npy`.
        kind: &'static str,
        reason: String,
    },
    /// A tensor's type has no counterpart in the format or in the tool.
    #[error("`{path}`: tensor `{name}` is {dtype}, which {what}", path = .path.display())]
    #[explain(code = "tensor-file-dtype", class = Input, hint("use a .safetensors file"))]
    Dtype {
        path: PathBuf,
        name: String,
        /// Its type as the format writes it.
        dtype: String,
        /// What does not go.
        what: &'static str,
    },
    /// Something else is where tensors are to be saved.
    #[error("`{path}` exists and holds no tensors", path = .0.display())]
    #[explain(code = "output-occupied", class = Input, hint("name another file, or overwrite this one with --force"))]
    Occupied(PathBuf),
    /// A file could not be read or written.
    #[error(transparent)]
    #[explain(transparent)]
    File(#[from] fsx::Error),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Safetensors,
    Npz,
    Npy,
}

fn kind(path: &Path) -> Result<Kind, Error> {
    match path.extension().and_then(|e| e.to_str()) {
        Some("safetensors") => Ok(Kind::Safetensors),
        Some("npz") => Ok(Kind::Npz),
        Some("npy") => Ok(Kind::Npy),
        Some("pt" | "pth" | "bin" | "ckpt" | "pkl" | "pickle") => {
            Err(Error::Pickle(path.to_owned()))
        }
        _ => Err(Error::Kind(path.to_owned())),
    }
}

/// Whether [`write()`] knows what to do with `path`.
///
/// # Errors
/// [`Error::Kind`].
pub fn check_name(path: &Path) -> Result<(), Error> {
    match kind(path)? {
        // One array without a name: outputs are several, and have names.
        Kind::Npy => Err(Error::Kind(path.to_owned())),
        _ => Ok(()),
    }
}

/// Refuses a `path` that [`write()`] would replace though it is no file of its kind. An empty file is nothing yet.
///
/// # Errors
/// [`Error::Occupied`], [`Error::Kind`].
pub fn refuse_foreign(path: &Path) -> Result<(), Error> {
    let kind = kind(path)?;
    if !path.exists() {
        return Ok(());
    }
    // Not a source: it is looked at because it will be replaced.
    let map = Map::of(&fsx::open_regular(path)?, path)?;
    let first = |n: usize| &map[..map.len().min(n)];
    let ours = match kind {
        Kind::Safetensors => {
            let stated = first(8).try_into().map_or(0, u64::from_le_bytes);
            let start =
                map.beginning(usize::try_from(stated.saturating_add(8)).unwrap_or(usize::MAX))?;
            SafeTensors::read_metadata(&start).is_ok()
        }
        // A zip archive begins with its first entry, or with its end if it has none.
        Kind::Npz => matches!(first(4), b"PK\x03\x04" | b"PK\x05\x06"),
        Kind::Npy => false,
    };
    if ours || map.is_empty() {
        Ok(())
    } else {
        Err(Error::Occupied(path.to_owned()))
    }
}

/// Whether [`write()`] can put values of these types into `path`.
///
/// # Errors
/// [`Error::Kind`]; [`Error::Dtype`] for the first that the format has no type for.
pub fn check_dtypes<'a>(
    path: &Path,
    tensors: impl IntoIterator<Item = (&'a str, Dtype)>,
) -> Result<(), Error> {
    let kind = kind(path)?;
    for (name, dtype) in tensors {
        let fits = match kind {
            Kind::Safetensors => dtype.safetensors().is_some(),
            Kind::Npz => npy_descr(dtype).is_some(),
            Kind::Npy => return Err(Error::Kind(path.to_owned())),
        };
        if !fits {
            return Err(no_counterpart(path, name, dtype));
        }
    }
    Ok(())
}

/// Reads every tensor of `path`. An npy file has one tensor, whose name is empty.
pub fn read(path: &Path) -> Result<NamedTensors, Error> {
    read_some(path, |_| true)
}

/// As [`read`], but of an npz file only the `wanted` tensors are unpacked; of the others there is the name, with a tensor of no
/// elements. A small archive may unpack to gigabytes that nobody asks for.
///
/// # Errors
/// As [`read`].
pub fn read_some(path: &Path, wanted: impl Fn(&str) -> bool) -> Result<NamedTensors, Error> {
    let kind = kind(path)?;
    let bytes = Map::open(path)?;
    match kind {
        Kind::Safetensors => read_safetensors(path, &bytes),
        Kind::Npz => read_npz(path, &bytes, wanted),
        Kind::Npy => {
            read_npy(path, "", &mut Cursor::new(&bytes[..])).map(|t| vec![(String::new(), t)])
        }
    }
}

fn read_safetensors(path: &Path, bytes: &[u8]) -> Result<NamedTensors, Error> {
    let file = SafeTensors::deserialize(bytes).map_err(|e| Error::Malformed {
        path: path.to_owned(),
        kind: "safetensors",
        reason: e.to_string(),
    })?;
    let mut tensors = NamedTensors::new();
    for (name, view) in file.tensors() {
        let written = view.dtype().to_string();
        let dtype = Dtype::from_safetensors(&written).ok_or_else(|| Error::Dtype {
            path: path.to_owned(),
            name: name.clone(),
            dtype: written,
            what: "this version does not know",
        })?;
        tensors.push((
            name,
            Tensor {
                dtype,
                shape: view.shape().to_vec(),
                data: view.data().to_vec(),
            },
        ));
    }
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(tensors)
}

fn read_npz(
    path: &Path,
    bytes: &[u8],
    wanted: impl Fn(&str) -> bool,
) -> Result<NamedTensors, Error> {
    let wrong = |e: zip::result::ZipError| Error::Malformed {
        path: path.to_owned(),
        kind: "npz",
        reason: e.to_string(),
    };
    let mut archive = zip::ZipArchive::new(Cursor::new(bytes)).map_err(wrong)?;
    let mut files: Vec<String> = archive.file_names().map(ToOwned::to_owned).collect();
    // An archive lists them in the order in which they were written.
    files.sort();
    let mut tensors = NamedTensors::new();
    for file in files {
        let Some(name) = npyz::npz::array_name_from_file_name(&file) else {
            continue;
        };
        // Named all the same, so that a prefix can be chosen among all names; only its data is not
        // unpacked.
        if !wanted(name) {
            let nothing = Tensor {
                dtype: Dtype::U8,
                shape: vec![0],
                data: Vec::new(),
            };
            tensors.push((name.to_owned(), nothing));
            continue;
        }
        let mut entry = archive.by_name(&file).map_err(wrong)?;
        tensors.push((name.to_owned(), read_npy(path, name, &mut entry)?));
    }
    Ok(tensors)
}

fn read_npy(path: &Path, name: &str, from: &mut dyn Read) -> Result<Tensor, Error> {
    let malformed = |reason: String| Error::Malformed {
        path: path.to_owned(),
        kind: "npy",
        reason,
    };
    let start = npy_start(from).map_err(&malformed)?;
    let whole = Cursor::new(start).chain(from);
    // What `npy_start` lets pass makes npyz panic nowhere that is known.
    let opened = catch_unwind(AssertUnwindSafe(|| NpyFile::new(whole)));
    let file = opened
        .map_err(|_| malformed("its header is damaged".into()))?
        .map_err(|e| malformed(e.to_string()))?;
    from_npy(path, name, file)
}

/// An npy file up to its data (<https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>), with a header that is safe
/// to parse.
fn npy_start(from: &mut dyn Read) -> Result<Vec<u8>, String> {
    /// Brackets within brackets: arrays of structures have four, and npyz's parser takes twice as long for each more.
    const DEEPEST: usize = 8;
    let mut start = vec![0; 10];
    from.read_exact(&mut start).map_err(|e| e.to_string())?;
    if !start.starts_with(b"\x93NUMPY") {
        return Err("it does not begin as an npy file".into());
    }
    let length = if start[6] == 1 {
        u16::from_le_bytes([start[8], start[9]]).into()
    } else {
        start.resize(12, 0);
        from.read_exact(&mut start[10..])
            .map_err(|e| e.to_string())?;
        u32::from_le_bytes([start[8], start[9], start[10], start[11]])
    };
    // NumPy refuses longer ones too, unless it is told to trust the file.
    if length > 10_000 {
        return Err(format!("its header is {length} bytes long"));
    }
    let before = start.len();
    (from.take(length.into()).read_to_end(&mut start)).map_err(|e| e.to_string())?;
    let mut depth = 0usize;
    for byte in &start[before..] {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEEPEST {
            return Err("its header has too many brackets within brackets".into());
        }
    }
    // npyz multiplies the extents without a check.
    for group in String::from_utf8_lossy(&start[before..]).split('(').skip(1) {
        let extents = group.split(')').next().unwrap_or_default().split(',');
        let mut extents = extents.filter_map(|e| e.trim().parse::<u64>().ok());
        if extents.try_fold(1u64, u64::checked_mul).is_none() {
            return Err("its shape overflows".into());
        }
    }
    Ok(start)
}

fn from_npy<R: Read>(path: &Path, name: &str, file: NpyFile<R>) -> Result<Tensor, Error> {
    let wrong = |reason: String| Error::Malformed {
        path: path.to_owned(),
        kind: "npy",
        reason,
    };
    let descr = file.dtype();
    let dtype = npy_dtype(&descr).ok_or_else(|| Error::Dtype {
        path: path.to_owned(),
        name: name.to_owned(),
        dtype: descr.descr(),
        what: "has no counterpart in a model",
    })?;
    let mut shape = Vec::new();
    for &extent in file.shape() {
        shape.push(usize::try_from(extent).map_err(|e| wrong(e.to_string()))?);
    }
    let fortran = file.order() == Order::Fortran;
    let expected = element_count(&shape)
        .and_then(|n| dtype.bytes_for(n))
        .ok_or_else(|| wrong(format!("shape {shape:?} overflows")))?;
    // Grows with what is there: a header may promise more than any memory has.
    let mut data = Vec::new();
    file.into_inner()
        .take((expected as u64).saturating_add(1))
        .read_to_end(&mut data)
        .map_err(|e| wrong(e.to_string()))?;
    if data.len() != expected {
        return Err(wrong(format!(
            "its data should be {expected} bytes long and is {} {}",
            if data.len() > expected {
                "more than"
            } else {
                "only"
            },
            data.len().min(expected)
        )));
    }
    let mut tensor = Tensor { dtype, shape, data };
    if fortran && tensor.shape.len() > 1 {
        tensor.shape.reverse();
        let order: Vec<usize> = (0..tensor.shape.len()).rev().collect();
        tensor.data = permute(tensor.view(), &order).map_err(|e| wrong(e.to_string()))?;
        tensor.shape.reverse();
    }
    Ok(tensor)
}

fn npy_dtype(descr: &DType) -> Option<Dtype> {
    let DType::Plain(t) = descr else { return None };
    if t.endianness() == npyz::Endianness::Big {
        return None;
    }
    Some(match (t.type_char(), t.size_field()) {
        (TypeChar::Float, 2) => Dtype::F16,
        (TypeChar::Float, 4) => Dtype::F32,
        (TypeChar::Float, 8) => Dtype::F64,
        (TypeChar::Int, 1) => Dtype::I8,
        (TypeChar::Int, 2) => Dtype::I16,
        (TypeChar::Int, 4) => Dtype::I32,
        (TypeChar::Int, 8) => Dtype::I64,
        (TypeChar::Uint, 1) => Dtype::U8,
        (TypeChar::Uint, 2) => Dtype::U16,
        (TypeChar::Uint, 4) => Dtype::U32,
        (TypeChar::Uint, 8) => Dtype::U64,
        (TypeChar::Bool, 1) => Dtype::Bool,
        (TypeChar::Complex, 8) => Dtype::C64,
        (TypeChar::Complex, 16) => Dtype::C128,
        _ => return None,
    })
}

fn npy_descr(dtype: Dtype) -> Option<&'static str> {
    Some(match dtype {
        Dtype::F16 => "<f2",
        Dtype::F32 => "<f4",
        Dtype::F64 => "<f8",
        Dtype::I8 => "|i1",
        Dtype::I16 => "<i2",
        Dtype::I32 => "<i4",
        Dtype::I64 => "<i8",
        Dtype::U8 => "|u1",
        Dtype::U16 => "<u2",
        Dtype::U32 => "<u4",
        Dtype::U64 => "<u8",
        Dtype::Bool => "|b1",
        Dtype::C64 => "<c8",
        Dtype::C128 => "<c16",
        _ => return None,
    })
}

/// Writes `tensors` to `path` (.safetensors or .npz), whole or not at all.
pub fn write(path: &Path, tensors: &NamedTensors) -> Result<(), Error> {
    let bytes = match kind(path)? {
        Kind::Safetensors => safetensors_bytes(path, tensors)?,
        Kind::Npz => npz_bytes(path, tensors)?,
        Kind::Npy => return Err(Error::Kind(path.to_owned())),
    };
    fsx::write_atomic(path, |out| {
        out.write_all(&bytes)
            .map_err(|e| fsx::Error::write(path, e).into())
    })
}

fn safetensors_bytes(path: &Path, tensors: &NamedTensors) -> Result<Vec<u8>, Error> {
    let malformed = |e: safetensors::SafeTensorError| Error::Malformed {
        path: path.to_owned(),
        kind: "safetensors",
        reason: e.to_string(),
    };
    let mut views = Vec::with_capacity(tensors.len());
    for (name, t) in tensors {
        let dtype = t
            .dtype
            .safetensors()
            .and_then(|n| serde_json::from_value(n.into()).ok())
            .ok_or_else(|| no_counterpart(path, name, t.dtype))?;
        let view = StView::new(dtype, t.shape.clone(), &t.data).map_err(malformed)?;
        views.push((name.as_str(), view));
    }
    safetensors::serialize(views, None).map_err(malformed)
}

fn npz_bytes(path: &Path, tensors: &NamedTensors) -> Result<Vec<u8>, Error> {
    let mut cursor = Cursor::new(Vec::new());
    fill_npz(path, &mut cursor, tensors)?;
    Ok(cursor.into_inner())
}

fn fill_npz<W: Write + Seek>(path: &Path, out: W, tensors: &NamedTensors) -> Result<(), Error> {
    let wrap = |e: std::io::Error| Error::from(fsx::Error::write(path, e));
    let mut archive = zip::ZipWriter::new(out);
    let options = zip::write::SimpleFileOptions::default()
        .compression_method(zip::CompressionMethod::Stored)
        .large_file(true);
    for (name, t) in tensors {
        let descr = npy_descr(t.dtype).ok_or_else(|| no_counterpart(path, name, t.dtype))?;
        let dtype = DType::new_scalar(descr.parse().expect("npy_descr writes valid type strings"));
        let shape: Vec<u64> = t.shape.iter().map(|&d| d as u64).collect();
        archive
            .start_file(npyz::npz::file_name_from_array_name(name), options)
            .map_err(|e| wrap(e.into()))?;
        npyz::WriteOptions::new_header_only()
            .dtype(dtype)
            .shape(&shape)
            .writer(&mut archive)
            .write_header_only()
            .map_err(wrap)?;
        archive.write_all(&t.data).map_err(wrap)?;
    }
    archive.finish().map_err(|e| wrap(e.into()))?;
    Ok(())
}

fn no_counterpart(path: &Path, name: &str, dtype: Dtype) -> Error {
    Error::Dtype {
        path: path.to_owned(),
        name: name.to_owned(),
        dtype: dtype.to_string(),
        what: "this file format cannot hold",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensors() -> NamedTensors {
        vec![
            (
                "a".into(),
                Tensor {
                    dtype: Dtype::F16,
                    shape: vec![2, 3],
                    data: (0..12).collect(),
                },
            ),
            (
                "b/c".into(),
                Tensor {
                    dtype: Dtype::I64,
                    shape: vec![],
                    data: (0..8).collect(),
                },
            ),
        ]
    }

    #[test]
    fn what_is_written_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["t.safetensors", "t.npz"] {
            let path = dir.path().join(name);
            write(&path, &tensors()).unwrap();
            assert_eq!(read(&path).unwrap(), tensors(), "{name}");
        }
    }

    #[test]
    fn fortran_order_is_put_right() {
        // numpy.asfortranarray([[0, 1, 2], [3, 4, 5]], dtype=int8)
        let mut bytes = Vec::new();
        npyz::WriteOptions::new_header_only()
            .order(Order::Fortran)
            .dtype(DType::new_scalar("|i1".parse().unwrap()))
            .shape(&[2, 3])
            .writer(&mut bytes)
            .write_header_only()
            .unwrap();
        bytes.extend([0, 3, 1, 4, 2, 5]);
        let t = read_npy(Path::new("f.npy"), "", &mut Cursor::new(&bytes)).unwrap();
        assert_eq!((t.shape, t.data), (vec![2, 3], vec![0, 1, 2, 3, 4, 5]));
    }

    #[test]
    fn wrong_contents_are_named() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["t.safetensors", "t.npz", "t.npy"] {
            let path = dir.path().join(name);
            std::fs::write(&path, b"not a tensor file").unwrap();
            let e = read(&path).unwrap_err().to_string();
            assert!(e.contains(name), "{e}");
        }
        assert!(matches!(read(Path::new("t.txt")), Err(Error::Kind(_))));
        let pickle = read(Path::new("io.pt")).unwrap_err();
        assert!(pickle.to_string().contains("pickle"), "{pickle}");
        assert!(pickle.hints()[0].contains("\"io.safetensors\""));
        let bf16 = vec![(
            "x".to_owned(),
            Tensor {
                dtype: Dtype::Bf16,
                shape: vec![1],
                data: vec![0, 0],
            },
        )];
        let npz = dir.path().join("o.npz");
        assert!(matches!(write(&npz, &bf16), Err(Error::Dtype { .. })));
        assert!(!npz.exists());
    }

    #[test]
    fn a_cut_npy_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.npz");
        write(&path, &tensors()).unwrap();
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        assert!(read(&path).is_err());
    }

    #[test]
    fn of_an_archive_only_what_is_wanted_is_unpacked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.npz");
        let tensor = |n: usize| Tensor {
            dtype: Dtype::U8,
            shape: vec![n],
            data: vec![7; n],
        };
        write(
            &path,
            &vec![("x".into(), tensor(3)), ("y".into(), tensor(1000))],
        )
        .unwrap();
        let some = read_some(&path, |name| name == "x").unwrap();
        assert_eq!(some, vec![("x".into(), tensor(3)), ("y".into(), tensor(0))]);
    }

    #[test]
    fn only_a_file_of_its_kind_is_written_over() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.npz", "a.safetensors"] {
            let path = dir.path().join(name);
            refuse_foreign(&path).unwrap();
            std::fs::write(&path, b"").unwrap();
            refuse_foreign(&path).unwrap();
            std::fs::write(&path, b"my notes, which are longer than a header").unwrap();
            assert!(matches!(refuse_foreign(&path), Err(Error::Occupied(_))));
            std::fs::remove_file(&path).unwrap();
            write(&path, &Vec::new()).unwrap();
            refuse_foreign(&path).unwrap();
        }
    }
}
