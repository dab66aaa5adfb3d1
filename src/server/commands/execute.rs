//! Execution: the one place where every command ends up, by whichever protocol it came.

use super::deferred::Deferred;
use super::{
    acl, admin, blocking, client_command, command_query, config_get, handshake, introspection, multi_key, one_key, scan, table, transaction,
};
use crate::server::connection::Connection;
use crate::server::evaluation::RoundTime;
use crate::server::protocol::ClientProtocol;
use crate::wire::command::{
    Command, ConnectionCommand, DataCommand, Introspection, KeyspaceCommand, OtherCommand, Request, SessionCommand, TextCommand,
};
use crate::wire::reply::{ErrorCode, Reply};

/// The result of a command.
pub(crate) enum Execution<'c> {
    Reply(Reply<'c>),
    /// An answer that is written when all replies before it are.
    Deferred(Deferred),
    /// The lines of a dump come next, not commands.
    Restore,
    /// The last reply of the connection.
    Close(Reply<'c>),
}

/// Executes one request. `answers_while_loading`: a node that has not caught up yet answers it,
/// too.
pub(crate) fn execute<'c>(
    connection: &mut Connection<'_>,
    request: &'c Request<'_>,
    answers_while_loading: impl FnOnce() -> bool,
    protocol: ClientProtocol,
    time: &RoundTime,
) -> Execution<'c> {
    connection.tally.commands += 1;
    if !connection.shared.services.replica.is_open() && !answers_while_loading() {
        return Execution::Reply(connection.loading());
    }
    if protocol == ClientProtocol::Text
        && connection.transaction.is_open()
        && !matches!(request, Request::Session(SessionCommand::Ack { .. }))
    {
        let sentence = "MULTI was said on this connection: say EXEC or DISCARD, as a Redis client does, before lines of text";
        return Execution::Reply(Reply::error(ErrorCode::Err, sentence));
    }
    let execution = match request {
        Request::Command(command) => execute_command(connection, command, time),
        Request::Session(command) => execute_session(connection, command, time),
        Request::Text(command) => match command {
            TextCommand::Keys { prefix, limit } => {
                Execution::Deferred(Deferred::Keys { prefix: prefix.to_vec(), limit: limit.unwrap_or(usize::MAX) })
            }
            TextCommand::Dump => Execution::Deferred(Deferred::Dump),
            TextCommand::Help { verb } => Execution::Deferred(Deferred::Help(verb.clone())),
            TextCommand::Restore => Execution::Restore,
        },
    };
    match execution {
        Execution::Reply(reply) if connection.closes => Execution::Close(reply),
        execution => execution,
    }
}

fn execute_command<'c>(connection: &mut Connection<'_>, command: &'c Command<'_>, time: &RoundTime) -> Execution<'c> {
    match command {
        Command::Data(command) => execute_data(connection, command, time),
        Command::Other(command) => match command {
            OtherCommand::Connection(command) => match execute_connection(connection, command) {
                // Late, so that guessing takes long, and behind the replies before it.
                wrong @ Reply::Error { code: ErrorCode::WrongPass, .. } => Execution::Deferred(Deferred::WrongPassword(wrong.into_owned())),
                reply => Execution::Reply(reply),
            },
            OtherCommand::Introspection(command) => Execution::Reply(introspect(connection, command)),
            OtherCommand::Admin(command) => Execution::Deferred(Deferred::Admin(command.clone())),
            OtherCommand::Blocking(command) => Execution::Deferred(Deferred::Blocking(*command)),
        },
    }
}

fn execute_data<'c>(connection: &mut Connection<'_>, command: &'c DataCommand<'_>, time: &RoundTime) -> Execution<'c> {
    let services = &connection.shared.services;
    Execution::Reply(match command {
        DataCommand::Read { key, read } => one_key::read(connection, key, read, time),
        DataCommand::Write { key, write } => one_key::write(connection, key, write, time),
        DataCommand::MultiKey(command) => multi_key::execute(connection, command, time),
        DataCommand::Keyspace(command) => match command {
            KeyspaceCommand::Count => scan::count(services, time),
            KeyspaceCommand::Scan(step) => scan::scan(services, step, &connection.authorization.scope(), time),
            KeyspaceCommand::RandomKey => scan::random_key(services, time),
            KeyspaceCommand::Matching { pattern } => return Execution::Deferred(Deferred::Matching { pattern: pattern.to_vec() }),
            KeyspaceCommand::Flush => return Execution::Deferred(Deferred::Flush),
        },
    })
}

fn execute_session(connection: &mut Connection<'_>, command: &SessionCommand<'_>, time: &RoundTime) -> Execution<'static> {
    Execution::Reply(match command {
        SessionCommand::Multi => connection.transaction.begin(),
        SessionCommand::Exec => transaction::exec(connection, time, execute_in_transaction),
        SessionCommand::Discard => connection.transaction.discard(),
        SessionCommand::Watch { keys } => connection.transaction.watch(&connection.shared.services.store, keys, time),
        SessionCommand::Ack { level: None } => Reply::Ack(connection.level),
        SessionCommand::Ack { level: Some(level) } => {
            connection.level = *level;
            Reply::Ok
        }
        SessionCommand::Reset => {
            connection.reset();
            Reply::Status("RESET")
        }
        SessionCommand::Quit => return Execution::Close(Reply::Ok),
    })
}

/// Executes a command of a transaction that is no part of its step, without waiting.
fn execute_in_transaction(connection: &mut Connection<'_>, command: &OtherCommand<'_>) -> Reply<'static> {
    match command {
        OtherCommand::Connection(command) => execute_connection(connection, command).into_owned(),
        OtherCommand::Introspection(command) => introspect(connection, command),
        OtherCommand::Admin(command) => {
            if let Some(name) = admin::audited_name(command) {
                connection.audit_command(name);
            }
            admin::answer(connection, command)
        }
        OtherCommand::Blocking(command) => blocking::answer(connection, *command, false),
    }
}

fn execute_connection<'c>(connection: &mut Connection<'_>, command: &'c ConnectionCommand<'_>) -> Reply<'c> {
    match command {
        ConnectionCommand::Ping { message: None } => Reply::Status("PONG"),
        ConnectionCommand::Ping { message: Some(message) } | ConnectionCommand::Echo { message } => Reply::Bytes((&**message).into()),
        ConnectionCommand::NoOp => Reply::Ok,
        ConnectionCommand::Authenticate(login) => handshake::auth(connection, login),
        ConnectionCommand::Hello { version, login, name } => handshake::hello(connection, *version, login.as_deref(), name.as_deref()),
        ConnectionCommand::Unwatch => {
            connection.transaction.unwatch();
            Reply::Ok
        }
        ConnectionCommand::Client(command) => client_command::answer(connection, command),
    }
}

fn introspect(connection: &mut Connection<'_>, command: &Introspection<'_>) -> Reply<'static> {
    match command {
        Introspection::Time => introspection::time(),
        Introspection::Role => introspection::role(connection.shared),
        Introspection::Lolwut => introspection::lolwut(),
        Introspection::Config { patterns } => config_get::config(connection.shared, patterns),
        Introspection::Commands(query) => command_query::answer(query, table::all()),
        Introspection::Acl(command) => acl::answer(connection, command, table::all()),
    }
}
