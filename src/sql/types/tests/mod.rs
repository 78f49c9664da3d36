//! Tests of values against PostgreSQL 15.
