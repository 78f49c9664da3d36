//! The protocol against a stand-in session ([`fake`]), over a pipe, in virtual time. pgwire's codec, which isn't ours, plays the client.

mod client;
mod fake;
mod rules;
mod waiting;
