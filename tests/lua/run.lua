-- Runs Lua tests without the binary: lua5.4 tests/lua/run.lua FILE... , from the top of the tree. A test file returns a table;
-- every function whose name begins with `test_` is a test and fails by raising. Each has a fresh world (fake.lua). The last
-- line is `N passed, N failed`.
package.path = "lua/?.lua;tests/lua/?.lua;" .. package.path

local fake = require "fake"

setmetatable(_G, {
  __index = function(_, name) error("undefined global '" .. tostring(name) .. "'", 2) end,
  __newindex = function(_, name) error("a new global '" .. tostring(name) .. "'", 2) end,
})

local passed, failed = 0, 0

local function names_of(tests)
  local names = {}
  for name, test in pairs(tests) do
    if type(name) == "string" and name:find("^test_") and type(test) == "function" then names[#names + 1] = name end
  end
  table.sort(names)
  return names
end

local function complain(file, name, why)
  failed = failed + 1
  print(("FAILED %s: %s\n  %s"):format(file, name, tostring(why):gsub("\n", "\n  ")))
end

for _, file in ipairs(arg) do
  fake.reset()
  local chunk, why = loadfile(file)
  local good, tests = pcall(chunk or error, why)
  if not good or type(tests) ~= "table" then
    complain(file, "load", good and "it returns no table" or tests)
  else
    for _, name in ipairs(names_of(tests)) do
      fake.reset()
      local fine, reason = xpcall(tests[name], debug.traceback)
      if fine then passed = passed + 1 else complain(file, name, reason) end
    end
  end
end

print(("%d passed, %d failed"):format(passed, failed))
os.exit(failed == 0 and passed > 0)
