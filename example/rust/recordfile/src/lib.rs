//! A foreign data wrapper that reads CSV and JSON-lines files. `README.md` lists the options.

mod cell;
mod error;
mod options;
mod records;

use std::collections::HashMap;

use pgrx::{AllocatedByRust, pg_sys};
use supabase_wrappers::FdwRoutine;
use supabase_wrappers::prelude::*;

use crate::error::Error;
use crate::options::Source;
use crate::records::Records;

pgrx::pg_module_magic!();
pgrx::extension_sql!(
    "CREATE FOREIGN DATA WRAPPER recordfile
  HANDLER record_file_fdw_handler VALIDATOR record_file_fdw_validator;",
    name = "wrapper",
    finalize
);

#[wrappers_fdw(version = "0.1.0", author = "the pgbake authors", error_type = "Error")]
struct RecordFileFdw {
    server: HashMap<String, String>,
    scan: Option<Scan>,
}

/// A scan under way.
struct Scan {
    source: Source,
    columns: Vec<Column>,
    records: Records,
}

impl ForeignDataWrapper<Error> for RecordFileFdw {
    fn new(server: ForeignServer) -> Result<Self, Error> {
        Ok(Self { server: server.options, scan: None })
    }

    fn begin_scan(
        &mut self,
        _quals: &[Qual],
        columns: &[Column],
        _sorts: &[Sort],
        _limit: &Option<Limit>,
        options: &HashMap<String, String>,
    ) -> Result<(), Error> {
        columns.iter().try_for_each(cell::check_type)?;
        let source = Source::of(&self.server, options)?;
        let records = Records::open(&source, columns)?;
        self.scan = Some(Scan { source, columns: columns.to_vec(), records });
        Ok(())
    }

    fn iter_scan(&mut self, row: &mut Row) -> Result<Option<()>, Error> {
        let Some(scan) = &mut self.scan else { return Ok(None) };
        scan.records.read(&scan.source, &scan.columns, row)
    }

    fn re_scan(&mut self) -> Result<(), Error> {
        if let Some(scan) = &mut self.scan {
            scan.records = Records::open(&scan.source, &scan.columns)?;
        }
        Ok(())
    }

    fn end_scan(&mut self) -> Result<(), Error> {
        self.scan = None;
        Ok(())
    }

    /// Without these PostgreSQL itself refuses what would write.
    fn fdw_routine_hook(routine: &mut FdwRoutine<AllocatedByRust>) {
        routine.AddForeignUpdateTargets = None;
        routine.PlanForeignModify = None;
        routine.BeginForeignModify = None;
        routine.ExecForeignInsert = None;
        routine.ExecForeignUpdate = None;
        routine.ExecForeignDelete = None;
        routine.EndForeignModify = None;
    }

    fn validator(options: Vec<Option<String>>, catalog: Option<pg_sys::Oid>) -> Result<(), Error> {
        options::validate(options.iter().flatten(), catalog)
    }
}
