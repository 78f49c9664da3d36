//! Dates and timestamps: text in and out, arithmetic, parts of them.

mod arithmetic;
mod fields;
mod input;
mod output;

pub use arithmetic::*;
pub use fields::{date_part_interval, date_part_timestamp, date_trunc_interval, date_trunc_timestamp, extract_interval, extract_timestamp};
pub(crate) use input::abbreviation;
pub use input::{input_date, input_timestamp, input_timestamptz};
pub(crate) use output::write_fraction;
pub use output::{write_date, write_timestamp, write_timestamptz};
