//! A client of hostd over its unix socket.
