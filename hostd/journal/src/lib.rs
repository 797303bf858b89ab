//! The durable store of hostd: trait, in memory, SQLite.
