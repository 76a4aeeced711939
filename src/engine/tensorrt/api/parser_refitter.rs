//! The ONNX parser once more, giving a refitter every weight of a model.

use super::parser::{ParseError, read_error};
use super::refitter::Refitter;
use super::{Core, Kind, Owned, c_path, call};
use crate::engine::Error;
use std::ffi::{c_char, c_void};
use std::path::Path;
use std::sync::Arc;

/// `nvonnxparser::IParserRefitter` (TensorRT 10.0 and later, TensorRT-RTX). What it gives the refitter lies in memory of its own,
/// so it has to live until [`Refitter::refit`] is done.
pub struct ParserRefitter<'r> {
    owned: Owned,
    _refitter: &'r Refitter<'r, 'r>,
}

impl Core {
    /// Whether [`ParserRefitter`] is there.
    pub fn takes_models_back(&self) -> bool {
        let parser = self.loaded.parser.as_ref();
        self.has(&self.table().parser_refitter.refit_from_file)
            && parser.is_ok_and(|p| p.create_refitter.is_some())
    }
}

impl<'r> ParserRefitter<'r> {
    /// One that gives to `refitter`.
    ///
    /// # Errors
    /// Where the version or the library has none.
    #[allow(unsafe_code)]
    pub fn new(refitter: &'r Refitter<'r, 'r>) -> Result<ParserRefitter<'r>, Error> {
        let core = refitter.core();
        let slot = &core.table().parser_refitter.deleting_dtor;
        let deleting_dtor = core.number(slot, "refitter in its parser")?;
        let parser = core
            .loaded
            .parser
            .as_ref()
            .map_err(|reason| core.no_parser(reason))?;
        let create = (parser.create_refitter)
            .ok_or_else(|| core.no_parser("it has no `createNvOnnxParserRefitter_INTERNAL`"))?;
        // SAFETY: the symbol's type is the header's; the refitter outlives this by its borrow, the logger by the core.
        let ptr = unsafe { create(refitter.ptr(), core.logger.as_ptr(), parser.version) };
        let owned = Owned {
            ptr: core.non_null(ptr, "createNvOnnxParserRefitter")?,
            kind: Kind::Plain { deleting_dtor },
            core: Arc::clone(core),
        };
        Ok(ParserRefitter {
            owned,
            _refitter: refitter,
        })
    }

    /// Gives the refitter all weights of the model at `path`, which has to be the one that the engine was built from but for their
    /// values. Nothing of the engine changes before [`Refitter::refit`].
    ///
    /// # Errors
    /// Everything that the parser records, at least one.
    pub fn give(&self, path: &Path) -> Result<Result<(), Vec<ParseError>>, Error> {
        let core = &self.owned.core;
        let name = c_path(core, path)?;
        let ok = call!(core, self.owned.this(), parser_refitter.refit_from_file as
            fn(name.as_ptr() => *const c_char) -> bool)?;
        let n = call!(
            core,
            self.owned.this(),
            parser_refitter.get_nb_errors as fn() -> i32
        )?;
        let errors = (0..n).map(|i| {
            let record = call!(core, self.owned.this(), parser_refitter.get_error as
                fn(i => i32) -> *mut c_void)?;
            read_error(
                core,
                core.non_null(record, "IParserRefitter::getError")?.as_ptr(),
            )
        });
        let errors = errors.collect::<Result<Vec<_>, Error>>()?;
        match (ok, errors.is_empty()) {
            (true, _) => Ok(Ok(())),
            (false, false) => Ok(Err(errors)),
            (false, true) => Err(core.failed("its parser does not take the model back")),
        }
    }
}
