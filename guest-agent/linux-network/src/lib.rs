//! The only code that calls rtnetlink, setns and TUN.
