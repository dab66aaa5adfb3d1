# ruby-redis as an application uses it, with its default settings. Arguments: host:port of the node to use, and of another one.
require "redis"
require "set"

DEADLINE_S = 10

def expect(what, found, wanted)
  abort "#{what}: expected #{wanted.inspect}, found #{found.inspect}" unless found == wanted
end

def until_true(what)
  finish = Process.clock_gettime(Process::CLOCK_MONOTONIC) + DEADLINE_S
  until yield
    abort "waited #{DEADLINE_S} s for: #{what}" if Process.clock_gettime(Process::CLOCK_MONOTONIC) > finish
    sleep 0.02
  end
end

def connect(address)
  host, _, port = address.rpartition(":")
  Redis.new(host: host, port: port.to_i)
end

redis = connect(ARGV.fetch(0))
other = connect(ARGV.fetch(1))
redis.del("rb:a", "rb:b", "rb:c", "rb:counter")

expect "ping", redis.ping, "PONG"
expect "set", redis.set("rb:a", "1"), "OK"
expect "get", redis.get("rb:a"), "1"
expect "get of nothing", redis.get("rb:nothing"), nil
expect "set nx", redis.set("rb:a", "2", nx: true), false
expect "set get", redis.set("rb:a", "2", get: true), "1"
expect "incr", redis.incr("rb:counter"), 1
expect "incrbyfloat", redis.incrbyfloat("rb:counter", 0.5), 1.5
expect "mset", redis.mset("rb:b", "x", "rb:c", "y"), "OK"
expect "mget", redis.mget("rb:b", "rb:nothing", "rb:c"), ["x", nil, "y"]
expect "exists", redis.exists("rb:b", "rb:nothing"), 1
expect "type", redis.type("rb:b"), "string"
bytes = (0..255).to_a.pack("C*")
redis.set(bytes, bytes)
expect "binary", redis.get(bytes).b, bytes
expect "del", redis.del(bytes), 1

expect "setex", redis.setex("rb:short", 1000, "1"), "OK"
expect "ttl", (990..1000).cover?(redis.ttl("rb:short")), true
expect "expire", redis.expire("rb:short", 2000), true
expect "persist", redis.persist("rb:short"), true
expect "ttl of what stays", redis.ttl("rb:short"), -1
expect "pexpire", redis.pexpire("rb:short", 100), true
until_true("the key expires") { redis.get("rb:short").nil? }

found = redis.pipelined do |pipeline|
  pipeline.set("rb:p", 1)
  pipeline.incr("rb:p")
  pipeline.get("rb:p")
end
expect "pipelined", found, ["OK", 2, "2"]
found = redis.multi do |transaction|
  transaction.set("rb:p", 5)
  transaction.incrby("rb:p", 2)
  transaction.del("rb:p")
end
expect "multi", found, ["OK", 7, 1]
redis.watch("rb:a") do
  other_connection = connect(ARGV.fetch(0))
  other_connection.set("rb:a", "changed")
  other_connection.close
  expect "multi after a change of what is watched", redis.multi { |transaction| transaction.set("rb:a", "mine") }, nil
end
redis.pipelined { |pipeline| 2000.times { |number| pipeline.set("rb:many:#{number}", number) } }
expect "scan_each", redis.scan_each(match: "rb:many:*", count: 100).to_set, (0...2000).map { |number| "rb:many:#{number}" }.to_set
begin
  redis.incr("rb:a")
  abort "INCR of a word went through"
rescue Redis::CommandError => error
  expect "its error", error.message, "ERR value is not an integer or out of range"
end
expect "info", redis.info["loading"], "0"
expect "dbsize", redis.dbsize >= 2000, true

redis.set("rb:across", "from one", ex: 1000)
until_true("the other node shows it") { other.get("rb:across") == "from one" }
other.del("rb:across")
until_true("this node shows that it is deleted") { redis.get("rb:across").nil? }
redis.quit

puts "ok: ruby-redis #{Redis::VERSION}: strings, expiry, pipelined, MULTI, WATCH, scan_each"
