//! From text to a value of a column's type.

use pgrx::{JsonB, pg_sys};
use supabase_wrappers::prelude::{Cell, Column};

use crate::error::Error;

pub fn check_type(column: &Column) -> Result<(), Error> {
    match column.type_oid {
        pg_sys::BOOLOID | pg_sys::INT2OID | pg_sys::INT4OID | pg_sys::INT8OID | pg_sys::FLOAT4OID
        | pg_sys::FLOAT8OID | pg_sys::NUMERICOID | pg_sys::TEXTOID | pg_sys::DATEOID
        | pg_sys::TIMESTAMPOID | pg_sys::TIMESTAMPTZOID | pg_sys::JSONOID | pg_sys::JSONBOID => Ok(()),
        _ => Err(Error::Type { column: column.name.clone() }),
    }
}

pub fn is_json(column: &Column) -> bool {
    matches!(column.type_oid, pg_sys::JSONOID | pg_sys::JSONBOID)
}

/// Parse a value; None where the text is none of the type, or the type is not one of [`check_type`]'s.
pub fn parse(text: &str, type_oid: pg_sys::Oid) -> Option<Cell> {
    let word = text.trim();
    match type_oid {
        pg_sys::TEXTOID => Some(Cell::String(text.to_owned())),
        pg_sys::BOOLOID => match word.to_ascii_lowercase().as_str() {
            "true" | "t" | "yes" | "y" | "on" | "1" => Some(Cell::Bool(true)),
            "false" | "f" | "no" | "n" | "off" | "0" => Some(Cell::Bool(false)),
            _ => None,
        },
        pg_sys::INT2OID => word.parse().ok().map(Cell::I16),
        pg_sys::INT4OID => word.parse().ok().map(Cell::I32),
        pg_sys::INT8OID => word.parse().ok().map(Cell::I64),
        pg_sys::FLOAT4OID => word.parse().ok().map(Cell::F32),
        pg_sys::FLOAT8OID => word.parse().ok().map(Cell::F64),
        pg_sys::NUMERICOID => word.parse().ok().map(Cell::Numeric),
        pg_sys::DATEOID => word.parse().ok().map(Cell::Date),
        pg_sys::TIMESTAMPOID => word.parse().ok().map(Cell::Timestamp),
        pg_sys::TIMESTAMPTZOID => word.parse().ok().map(Cell::Timestamptz),
        // The framework's JSON is jsonb; a value of type json is its text.
        pg_sys::JSONOID => {
            serde_json::from_str::<&serde_json::value::RawValue>(word).ok().map(|_| Cell::String(word.to_owned()))
        }
        pg_sys::JSONBOID => serde_json::from_str(word).ok().map(|value| Cell::Json(JsonB(value))),
        _ => None,
    }
}
