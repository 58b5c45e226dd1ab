//! What can go wrong, in words for who writes the query.

use std::io;

use pgrx::PgSqlErrorCode;
use pgrx::pg_sys::panic::ErrorReport;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("there is no option \"{name}\" here")]
    UnknownOption { name: String, known: &'static [&'static str] },
    #[error("the option \"{name}\" cannot be '{value}'")]
    OptionValue { name: &'static str, value: String, hint: &'static str },
    #[error("the table's option \"path\" is missing")]
    NoPath,
    #[error("the path \"{0}\" is relative, and the server has no option \"directory\"")]
    NoDirectory(String),
    #[error("permission denied to set the option \"{0}\"")]
    Forbidden(&'static str),
    #[error("the column \"{column}\" has a type that recordfile does not read")]
    Type { column: String },
    #[error("cannot open {file}: {cause}")]
    Open { file: String, cause: io::Error },
    #[error("{file} has no column \"{column}\"")]
    NoColumn { file: String, column: String, present: String },
    #[error("{file}, line {line}: {what}")]
    Record { file: String, line: u64, what: String },
    #[error("{file}, line {line}: '{text}' is no value for the column \"{column}\"")]
    Value { file: String, line: u64, text: String, column: String },
}

impl From<Error> for ErrorReport {
    fn from(error: Error) -> Self {
        use PgSqlErrorCode as Code;
        let (code, hint) = match &error {
            Error::UnknownOption { known: [], .. } => {
                (Code::ERRCODE_FDW_INVALID_OPTION_NAME, Some("There are no options here.".into()))
            }
            Error::UnknownOption { known, .. } => {
                (Code::ERRCODE_FDW_INVALID_OPTION_NAME, Some(format!("Options are: {}.", known.join(", "))))
            }
            Error::OptionValue { hint, .. } => {
                (Code::ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE, Some((*hint).into()))
            }
            Error::NoPath => (Code::ERRCODE_FDW_OPTION_NAME_NOT_FOUND, None),
            Error::NoDirectory(_) => (
                Code::ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE,
                Some("Write an absolute path, or set \"directory\" on the server.".into()),
            ),
            Error::Forbidden(_) => (
                Code::ERRCODE_INSUFFICIENT_PRIVILEGE,
                Some("It takes the rights of the role pg_read_server_files.".into()),
            ),
            Error::Type { .. } => (
                Code::ERRCODE_FDW_INVALID_DATA_TYPE,
                Some("Declare it as text, and cast in the query or in a view.".into()),
            ),
            Error::Open { cause, .. } => (
                match cause.kind() {
                    io::ErrorKind::NotFound => Code::ERRCODE_UNDEFINED_FILE,
                    io::ErrorKind::PermissionDenied => Code::ERRCODE_INSUFFICIENT_PRIVILEGE,
                    _ => Code::ERRCODE_IO_ERROR,
                },
                None,
            ),
            Error::NoColumn { present, .. } => {
                (Code::ERRCODE_FDW_COLUMN_NAME_NOT_FOUND, Some(format!("It has: {present}.")))
            }
            Error::Record { .. } => (Code::ERRCODE_BAD_COPY_FILE_FORMAT, None),
            Error::Value { .. } => (Code::ERRCODE_INVALID_TEXT_REPRESENTATION, None),
        };
        let report = ErrorReport::new(code, error.to_string(), "");
        match hint {
            Some(hint) => report.set_hint(hint),
            None => report,
        }
    }
}
