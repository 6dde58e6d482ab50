-- What tests say of values.
local expect = {}

local function show(value)
  if type(value) ~= "table" then return tostring(value) end
  local parts = {}
  for i, v in ipairs(value) do parts[i] = show(v) end
  return "{ " .. table.concat(parts, ", ") .. " }"
end

function expect.equal(got, wanted, what)
  if got ~= wanted then error(("%s%s, not %s"):format(what and what .. ": " or "", show(got), show(wanted)), 2) end
end

function expect.near(got, wanted, within, what)
  local good = type(got) == "number" and math.abs(got - wanted) <= (within or 1e-9)
  if not good then error(("%s%s, not %s"):format(what and what .. ": " or "", show(got), show(wanted)), 2) end
end

function expect.list(got, wanted, what)
  local same = #got == #wanted
  for i = 1, #wanted do same = same and (got[i] == wanted[i] or (type(got[i]) == "number" and math.abs(got[i] - wanted[i]) < 1e-9)) end
  if not same then error(("%s%s, not %s"):format(what and what .. ": " or "", show(got), show(wanted)), 2) end
end

--- The call raises, and the message has `part` in it. Gives the message.
function expect.raises(part, f, ...)
  local good, why = pcall(f, ...)
  if good then error("it does not raise: " .. part, 2) end
  if not tostring(why):find(part, 1, true) then error(("'%s' is not in: %s"):format(part, tostring(why)), 2) end
  return why
end

return expect
