//! A network and a configuration become a plan: in memory, or written as it is made.

use super::builder::{Builder, HostMemory, Network};
use super::call;
use super::config::Config;
use super::writer::Writer;
use crate::engine::Error;
use crate::watch::Watch;
use std::ffi::c_void;
use std::io::Write;

impl Builder {
    /// Builds a plan into memory.
    ///
    /// # Errors
    /// With TensorRT's own words.
    pub fn build(
        &self,
        network: &Network,
        config: &Config,
        watch: &dyn Watch,
    ) -> Result<HostMemory, Error> {
        let core = self.core();
        let ptr = config.monitored(watch, || {
            call!(core, self.owned.this(), builder.build_serialized_network as
                fn(network.ptr() => *mut c_void, config.ptr() => *mut c_void) -> *mut c_void)
        })?;
        HostMemory::new(core, ptr, "buildSerializedNetwork")
    }

    /// Whether [`Builder::build_to`] is there.
    pub fn can_stream(&self) -> bool {
        let builder = &self.core().table().builder;
        self.core().has(&builder.build_serialized_network_to_stream)
    }

    /// Builds a plan that goes out as it is made, so that it is never whole in memory.
    ///
    /// # Errors
    /// [`Error::Write`] when `out` fails, otherwise with TensorRT's own words.
    pub fn build_to(
        &self,
        network: &Network,
        config: &Config,
        out: &mut dyn Write,
        watch: &dyn Watch,
    ) -> Result<(), Error> {
        let core = self.core();
        let writer = Writer::new(out);
        let ok = config.monitored(watch, || {
            call!(core, self.owned.this(), builder.build_serialized_network_to_stream as
                fn(network.ptr() => *mut c_void, config.ptr() => *mut c_void, writer.as_ptr() => *mut c_void) -> bool)
        })?;
        // A write that failed is why the build did, so it is told first.
        writer.finish().map_err(Error::Write)?;
        core.check(ok, "buildSerializedNetworkToStream failed")
    }
}
