-- What a policy may use: Lua 5.4 as the sandbox leaves it, and the global `bullpen` (see lua/meta/bullpen.lua).
stds.policy = {
  read_globals = {
    "assert", "bullpen", "collectgarbage", "error", "getmetatable", "ipairs", "load", "next", "pairs", "pcall", "print",
    "rawequal", "rawget", "rawlen", "rawset", "require", "select", "setmetatable", "tonumber", "tostring", "type", "xpcall",
    coroutine = { other_fields = true }, math = { other_fields = true }, string = { other_fields = true },
    table = { other_fields = true }, utf8 = { other_fields = true },
    os = { fields = { "time", "date", "clock" } },
  },
}
std = "policy"
max_line_length = 128
files["lua/meta"] = { globals = { "bullpen" }, ignore = { "212", "211" } } -- stubs: arguments are there for their names
files["tests/lua"] = { std = "lua54", globals = { "bullpen" }, max_line_length = 160 }
