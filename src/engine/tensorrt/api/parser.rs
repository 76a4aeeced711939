//! The ONNX parser, and what it says of models that it does not take.

use super::builder::Network;
use super::observer::{Observer, Record};
use super::{Core, Kind, Owned, c_path, call, text};
use crate::engine::Error;
use std::ffi::{c_char, c_int, c_void};
use std::path::Path;
use std::sync::Arc;

/// `nvonnxparser::IParser`, filling one network.
pub struct Parser<'n> {
    owned: Owned,
    _network: &'n Network,
}

/// One record of what the parser could not do (`IParserError`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseError {
    /// Index of the node in the graph; -1 where it is about no node.
    pub node: i32,
    /// The node's name, where the version tells it (9.1 on).
    pub name: Option<String>,
    /// The node's operator, where the version tells it (9.1 on).
    pub operator: Option<String>,
    /// Why, with the place in the parser's source that found it.
    pub reason: String,
}

impl<'n> Parser<'n> {
    /// A parser into `network`. Weights may point into what is parsed, so the parser has to live until the build is done.
    ///
    /// # Errors
    /// Where there is no parser library, or it makes no parser.
    #[allow(unsafe_code)]
    pub fn new(network: &'n Network) -> Result<Parser<'n>, Error> {
        let core = network.core();
        let library = core
            .loaded
            .parser
            .as_ref()
            .map_err(|reason| core.no_parser(reason))?;
        // SAFETY: the symbol's type is the header's; the network outlives the parser by its borrow, the logger by the core.
        let ptr = unsafe { (library.create)(network.ptr(), core.logger.as_ptr(), library.version) };
        let deleting_dtor = core.number(&core.table().parser.deleting_dtor, "parser destructor")?;
        let ptr = core.non_null(ptr, "createNvOnnxParser")?;
        let owned = Owned {
            ptr,
            kind: Kind::Plain { deleting_dtor },
            core: Arc::clone(core),
        };
        let parser = Parser {
            owned,
            _network: network,
        };
        parser.prefer_native_instance_norm()?;
        Ok(parser)
    }

    fn core(&self) -> &Arc<Core> {
        &self.owned.core
    }

    /// `InstanceNormalization` as layers and not as a plugin: version-compatible engines need that, and then no plugin
    /// library is. It is the default from 10.0 on; before 8.6.1 it cannot be set.
    fn prefer_native_instance_norm(&self) -> Result<(), Error> {
        let core = self.core();
        let table = core.table();
        let Some(flag) = core.entry(&table.parser_flag.native_instancenorm) else {
            return Ok(());
        };
        if core.has(&table.parser.set_flag) {
            call!(core, self.owned.this(), parser.set_flag as fn(i32::from(flag) => i32))?;
        }
        Ok(())
    }

    /// Parses the model at `path`; external data is looked for beside it. Tells how each weight comes about, where the version
    /// tells it.
    ///
    /// # Errors
    /// Everything that the parser records, at least one.
    pub fn parse_file(
        &self,
        path: &Path,
    ) -> Result<Result<Option<Vec<Record>>, Vec<ParseError>>, Error> {
        let core = self.core();
        let observer = Observer::new(core);
        let observes = core.has(&core.table().parser.set_refit_observer);
        let observe = |observer: *mut c_void| call!(core, self.owned.this(), parser.set_refit_observer as fn(observer => *mut c_void));
        if observes {
            observe(observer.as_ptr())?;
        }
        let outcome = self.parse_path(path);
        if observes {
            // It ends with this call.
            observe(std::ptr::null_mut())?;
        }
        let records = observes.then(|| observer.into_records());
        Ok(outcome?.map(|()| records))
    }

    fn parse_path(&self, path: &Path) -> Result<Result<(), Vec<ParseError>>, Error> {
        let core = self.core();
        let name = c_path(core, path)?;
        // ILogger::Severity::kWARNING
        let verbosity: c_int = 2;
        let ok = call!(core, self.owned.this(), parser.parse_from_file as
            fn(name.as_ptr() => *const c_char, verbosity => c_int) -> bool)?;
        self.outcome(ok)
    }

    /// Parses a serialized model. `path` is where external data is looked for.
    ///
    /// # Errors
    /// Everything that the parser records, at least one.
    pub fn parse_bytes(
        &self,
        model: &[u8],
        path: &Path,
    ) -> Result<Result<(), Vec<ParseError>>, Error> {
        let core = self.core();
        let name = c_path(core, path)?;
        let ok = call!(core, self.owned.this(), parser.parse as
            fn(model.as_ptr().cast() => *const c_void, model.len() => usize, name.as_ptr() => *const c_char) -> bool)?;
        self.outcome(ok)
    }

    fn outcome(&self, ok: bool) -> Result<Result<(), Vec<ParseError>>, Error> {
        let errors = self.errors()?;
        match (ok, errors.is_empty()) {
            (true, _) => Ok(Ok(())),
            (false, false) => Ok(Err(errors)),
            (false, true) => Err(self.core().failed("the model could not be parsed")),
        }
    }

    fn errors(&self) -> Result<Vec<ParseError>, Error> {
        let core = self.core();
        let n = call!(
            core,
            self.owned.this(),
            parser.get_nb_errors as fn() -> c_int
        )?;
        (0..n)
            .map(|i| {
                let record = call!(core, self.owned.this(), parser.get_error as fn(i => c_int) -> *mut c_void)?;
                read_error(core, core.non_null(record, "IParser::getError")?.as_ptr())
            })
            .collect()
    }
}

/// Reads one record, which its parser owns.
#[allow(unsafe_code)]
pub(super) fn read_error(core: &Core, record: *mut c_void) -> Result<ParseError, Error> {
    let table = &core.table().parser_error;
    let string = |ptr: *const c_char| {
        // SAFETY: the record owns its strings, and they are copied here.
        unsafe { text(ptr) }.filter(|s| !s.is_empty())
    };
    let desc = string(call!(
        core,
        record,
        parser_error.desc as fn() -> *const c_char
    )?);
    let file = string(call!(
        core,
        record,
        parser_error.file as fn() -> *const c_char
    )?);
    let line = call!(core, record, parser_error.line as fn() -> c_int)?;
    let node = call!(core, record, parser_error.node as fn() -> c_int)?;
    let (mut name, mut operator) = (None, None);
    if core.has(&table.node_name) && core.has(&table.node_operator) {
        name = string(call!(
            core,
            record,
            parser_error.node_name as fn() -> *const c_char
        )?);
        operator = string(call!(
            core,
            record,
            parser_error.node_operator as fn() -> *const c_char
        )?);
    }
    let mut reason = desc.map_or_else(|| "no reason given".to_owned(), |d| d.trim().to_owned());
    if let Some(file) = file {
        let file = file.rsplit('/').next().unwrap_or_default();
        reason = format!("{reason} ({file}:{line})");
    }
    Ok(ParseError {
        node,
        name,
        operator,
        reason,
    })
}
