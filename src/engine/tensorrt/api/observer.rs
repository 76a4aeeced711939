//! `nvonnxparser::IRefitterObserver` made in Rust: how the parser makes each weight of the network from initializers.
//!
//! `IParser` has it from TensorRT 11.4 and TensorRT-RTX 1.7 on (`NvOnnxParser.h`). The class has a virtual destructor, which takes
//! the first two slots, and one function.

use super::logger::nothing;
use super::{Core, text};
use crate::engine::tensorrt::releases::RefitRecord;
use crate::tensor::Dtype;
use std::cell::RefCell;
use std::ffi::c_void;

/// How a weight comes about (`RefitTransformKind`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// An initializer as it is.
    Initializer,
    /// An initializer of f64, narrowed to f32.
    Narrowed,
    /// `scale / √(variance + ε)` of a `BatchNormalization`.
    FoldScale,
    /// `bias − mean · scale / √(variance + ε)` of a `BatchNormalization`.
    FoldShift,
    /// Not from an initializer.
    Constant,
}

/// One weight that the parser named. The builder may still fold it away.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Its name in the network, and in the engine.
    pub name: String,
    /// How it comes about.
    pub origin: Origin,
    /// Element type; `None` for one that this crate has no name for.
    pub dtype: Option<Dtype>,
    pub count: usize,
    /// The initializers that it comes from; of a fold: scale, bias, mean, variance.
    pub sources: Vec<String>,
    /// ε of a fold.
    pub epsilon: f32,
}

/// The object that the parser is given for the time of one parse.
#[repr(C)]
pub(super) struct Observer<'c> {
    vtable: &'static Functions,
    core: &'c Core,
    records: RefCell<Vec<Record>>,
}

/// Its functions, in order.
#[repr(C)]
struct Functions {
    complete_dtor: extern "C" fn(*mut c_void),
    deleting_dtor: extern "C" fn(*mut c_void),
    on_weight: unsafe extern "C" fn(*const Observer<'_>, *const RefitRecord),
}

static FUNCTIONS: Functions = Functions {
    complete_dtor: nothing,
    deleting_dtor: nothing,
    on_weight,
};

#[allow(unsafe_code)]
unsafe extern "C" fn on_weight(this: *const Observer<'_>, record: *const RefitRecord) {
    if this.is_null() || record.is_null() {
        return;
    }
    // SAFETY: the parser gives the observer that `Observer::new` made, on the thread that parses, and a record that lives as long
    // as this call.
    let (this, record) = unsafe { (&*this, &*record) };
    // SAFETY: as above; the name is zero-terminated.
    let Some(name) = (unsafe { text(record.name) }) else {
        return;
    };
    let given = match usize::try_from(record.source_count) {
        Ok(n @ 1..=4) if !record.sources.is_null() => n,
        _ => 0,
    };
    let sources = (0..given)
        // SAFETY: as above; there are `source_count` pointers to zero-terminated strings.
        .filter_map(|i| unsafe { text(*record.sources.add(i)) })
        .collect();
    let record = Record {
        name,
        origin: match record.kind {
            0 => Origin::Initializer,
            1 => Origin::Narrowed,
            2 => Origin::FoldScale,
            3 => Origin::FoldShift,
            _ => Origin::Constant,
        },
        dtype: this.core.dtype(record.dtype).ok(),
        count: usize::try_from(record.count).unwrap_or(0),
        sources,
        epsilon: record.epsilon,
    };
    if let Ok(mut records) = this.records.try_borrow_mut() {
        records.push(record);
    }
}

impl<'c> Observer<'c> {
    /// An observer of one parse.
    pub(super) fn new(core: &'c Core) -> Observer<'c> {
        Observer {
            vtable: &FUNCTIONS,
            core,
            records: RefCell::default(),
        }
    }

    pub(super) fn as_ptr(&self) -> *mut c_void {
        std::ptr::from_ref(self).cast_mut().cast()
    }

    /// What was seen, in the parser's order.
    pub(super) fn into_records(self) -> Vec<Record> {
        self.records.into_inner()
    }
}
