//! The protocol against a stand-in session.
