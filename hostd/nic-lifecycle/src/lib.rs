//! The pure heart of hostd: state table, admission, ledger, plans whose steps carry their undo.
