//! Real SQL through sessions.
