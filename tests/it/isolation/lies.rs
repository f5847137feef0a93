//! A database that lies.
