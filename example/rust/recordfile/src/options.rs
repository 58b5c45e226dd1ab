//! The options of servers and tables.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use pgrx::pg_sys;
use supabase_wrappers::prelude::{FOREIGN_SERVER_RELATION_ID, FOREIGN_TABLE_RELATION_ID};

use crate::error::Error;

const OF_SERVERS: &[&str] = &["directory"];
const OF_TABLES: &[&str] = &["path", "format", "delimiter", "header", "null"];

/// What a foreign table reads.
pub struct Source {
    pub path: PathBuf,
    /// As the table's option has it, for messages.
    pub name: String,
    pub format: Format,
}

pub enum Format {
    Csv { delimiter: u8, has_header: bool, null: String },
    JsonLines,
}

type Options = HashMap<String, String>;

impl Source {
    pub fn of(server: &Options, table: &Options) -> Result<Self, Error> {
        let name = table.get("path").ok_or(Error::NoPath)?.clone();
        let path = match server.get("directory") {
            Some(directory) => Path::new(directory).join(&name),
            None if name.starts_with('/') => PathBuf::from(&name),
            None => return Err(Error::NoDirectory(name)),
        };
        Ok(Self { path, format: Format::of(table)?, name })
    }
}

impl Format {
    fn of(table: &Options) -> Result<Self, Error> {
        let get = |name| table.get(name).map(String::as_str);
        let by_name = match get("path").and_then(|path| Path::new(path).extension()?.to_str()) {
            Some("jsonl" | "ndjson") => "jsonl",
            _ => "csv",
        };
        match get("format").unwrap_or(by_name) {
            "csv" => Ok(Self::Csv {
                delimiter: match get("delimiter").unwrap_or(",").as_bytes() {
                    &[byte] if byte.is_ascii() && !b"\"\r\n".contains(&byte) => byte,
                    _ => return Err(refused("delimiter", table, "Write one ASCII character; a tab is E'\\t'.")),
                },
                has_header: match get("header").unwrap_or("true") {
                    "true" | "on" | "yes" => true,
                    "false" | "off" | "no" => false,
                    _ => return Err(refused("header", table, "Write true or false.")),
                },
                null: get("null").unwrap_or_default().to_owned(),
            }),
            "jsonl" => match ["delimiter", "header", "null"].into_iter().find(|name| get(name).is_some()) {
                Some(name) => Err(refused(name, table, "It is for CSV files only.")),
                None => Ok(Self::JsonLines),
            },
            _ => Err(refused("format", table, "Formats are: csv, jsonl.")),
        }
    }
}

fn refused(name: &'static str, options: &Options, hint: &'static str) -> Error {
    Error::OptionValue { name, value: options.get(name).cloned().unwrap_or_default(), hint }
}

/// Checks what CREATE and ALTER set, each as `name=value`.
pub fn validate<'a>(
    options: impl Iterator<Item = &'a String>,
    catalog: Option<pg_sys::Oid>,
) -> Result<(), Error> {
    let options: Options = options
        .map(|option| option.split_once('=').unwrap_or((option, "")))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let known = match catalog {
        Some(FOREIGN_SERVER_RELATION_ID) => OF_SERVERS,
        Some(FOREIGN_TABLE_RELATION_ID) => OF_TABLES,
        _ => &[],
    };
    if let Some(name) = options.keys().filter(|name| !known.contains(&name.as_str())).min() {
        return Err(Error::UnknownOption { name: name.clone(), known });
    }
    for name in ["directory", "path"] {
        if options.contains_key(name) && !may_read_files() {
            return Err(Error::Forbidden(name));
        }
    }
    if options.get("directory").is_some_and(|directory| !directory.starts_with('/')) {
        return Err(refused("directory", &options, "Write an absolute path."));
    }
    if catalog == Some(FOREIGN_TABLE_RELATION_ID) {
        options.get("path").ok_or(Error::NoPath)?;
        Format::of(&options)?;
    }
    Ok(())
}

/// Whoever names a file reads it with the server's rights, as with file_fdw.
fn may_read_files() -> bool {
    let reader = pg_sys::Oid::from(pg_sys::ROLE_PG_READ_SERVER_FILES);
    // SAFETY: both only look into the catalogs, in the transaction of the statement.
    unsafe { pg_sys::has_privs_of_role(pg_sys::GetUserId(), reader) }
}
