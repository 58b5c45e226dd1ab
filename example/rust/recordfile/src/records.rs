//! Reading files, record by record.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader};

use csv::{ErrorKind, ReaderBuilder, StringRecord};
use serde_json::value::RawValue;
use supabase_wrappers::prelude::{Column, Row};

use crate::cell;
use crate::error::Error;
use crate::options::{Format, Source};

pub enum Records {
    Csv {
        reader: csv::Reader<File>,
        record: StringRecord,
        /// For each column that is wanted the field that it is.
        fields: Vec<usize>,
        null: String,
    },
    JsonLines {
        reader: BufReader<File>,
        text: String,
        line: u64,
    },
}

impl Records {
    /// Open the file, and find the columns in its header where it has one.
    pub fn open(source: &Source, columns: &[Column]) -> Result<Self, Error> {
        let file =
            File::open(&source.path).map_err(|cause| Error::Open { file: source.name.clone(), cause })?;
        let Format::Csv { delimiter, has_header, ref null } = source.format else {
            return Ok(Self::JsonLines { reader: BufReader::new(file), text: String::new(), line: 0 });
        };
        let mut reader = ReaderBuilder::new().delimiter(delimiter).has_headers(has_header).from_reader(file);
        let fields = if has_header {
            let header = reader.headers().map_err(|error| malformed(source, error))?;
            let field = |column: &Column| {
                header.iter().position(|name| name == column.name).ok_or_else(|| Error::NoColumn {
                    file: source.name.clone(),
                    column: column.name.clone(),
                    present: header.iter().collect::<Vec<_>>().join(", "),
                })
            };
            columns.iter().map(field).collect::<Result<_, _>>()?
        } else {
            columns.iter().map(|column| column.num - 1).collect()
        };
        Ok(Self::Csv { reader, record: StringRecord::new(), fields, null: null.clone() })
    }

    /// Read the next record's columns into the row; None at the end of the file.
    pub fn read(&mut self, source: &Source, columns: &[Column], row: &mut Row) -> Result<Option<()>, Error> {
        match self {
            Self::Csv { reader, record, fields, null } => {
                if !reader.read_record(record).map_err(|error| malformed(source, error))? {
                    return Ok(None);
                }
                let line = record.position().map_or(0, |position| position.line());
                for (column, field) in columns.iter().zip(fields) {
                    let text = record.get(*field).ok_or_else(|| Error::Record {
                        file: source.name.clone(),
                        line,
                        what: format!("{} fields, but the column \"{}\" is number {}", record.len(), column.name, column.num),
                    })?;
                    let text = Some(text).filter(|text| text != null);
                    push(source, line, column, text, row)?;
                }
            }
            Self::JsonLines { reader, text, line } => {
                let failed = |line, what: String| Error::Record { file: source.name.clone(), line, what };
                loop {
                    text.clear();
                    *line += 1;
                    let length = reader.read_line(text).map_err(|error| failed(*line, error.to_string()))?;
                    if length == 0 {
                        return Ok(None);
                    }
                    if !text.trim().is_empty() {
                        break;
                    }
                }
                let object: HashMap<String, &RawValue> = serde_json::from_str(text)
                    .map_err(|error| failed(*line, format!("no JSON object: {}", without_line(&error))))?;
                for column in columns {
                    let raw = object.get(&column.name).map(|value| value.get()).filter(|raw| *raw != "null");
                    match raw {
                        // What is a string in JSON counts as its text, unless JSON is what is wanted.
                        Some(raw) if raw.starts_with('"') && !cell::is_json(column) => {
                            let text: String = serde_json::from_str(raw)
                                .map_err(|error| failed(*line, without_line(&error)))?;
                            push(source, *line, column, Some(&text), row)?;
                        }
                        raw => push(source, *line, column, raw, row)?,
                    }
                }
            }
        }
        Ok(Some(()))
    }
}

fn push(source: &Source, line: u64, column: &Column, text: Option<&str>, row: &mut Row) -> Result<(), Error> {
    let cell = text
        .map(|text| {
            cell::parse(text, column.type_oid).ok_or_else(|| Error::Value {
                file: source.name.clone(),
                line,
                text: shortened(text),
                column: column.name.clone(),
            })
        })
        .transpose()?;
    row.push(&column.name, cell);
    Ok(())
}

fn malformed(source: &Source, error: csv::Error) -> Error {
    let what = match error.kind() {
        ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("{len} fields, where the first line has {expected_len}")
        }
        ErrorKind::Utf8 { err, .. } => format!("field {} is not valid UTF-8", err.field() + 1),
        _ => error.to_string(),
    };
    let line = error.position().map_or(1, |position| position.line());
    Error::Record { file: source.name.clone(), line, what }
}

/// The error without its place, of which only the column holds: a record is one line.
fn without_line(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rsplit_once(" at line ") {
        Some((what, _)) if error.column() > 0 => format!("{what} at character {}", error.column()),
        Some((what, _)) => what.to_owned(),
        None => text,
    }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}
