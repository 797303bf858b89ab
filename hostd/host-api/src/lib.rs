//! Types and client of hostd's HTTP API.
