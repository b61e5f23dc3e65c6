-- What the operations share. ARGV: the operation, the prefix of all keys, and its own arguments.
-- A moment is text of 18 digits: seconds since the year 1 (12), microseconds (6). Numbers here are doubles,
-- which do not hold it, and the comparison of texts orders it.

local call, sub, P = redis.call, string.sub, ARGV[2]
local ops = {}

local function moment_of(seconds, microseconds)
  return string.format('%012.0f%06.0f', seconds, microseconds)
end

local function plus(moment, microseconds)
  local sum = tonumber(sub(moment, 13, 18)) + microseconds
  local seconds = math.floor(sum / 1000000)
  return moment_of(tonumber(sub(moment, 1, 12)) + seconds, sum - seconds * 1000000)
end

-- Orders the newest first, so that ids may ascend among sessions of one moment.
local function inverse(moment)
  return moment_of(999999999999 - tonumber(sub(moment, 1, 12)), 999999 - tonumber(sub(moment, 13, 18)))
end

-- The time of the server, or the microsecond after a session's last change.
local function next_moment(updated)
  local time, least = call('TIME'), plus(updated, 1)
  local now = moment_of(time[1] + 62135596800, time[2])
  return now < least and least or now
end

-- A small number among the arguments; a large one is passed on as text, for the server would get "1e+15".
local function number(index)
  return tonumber(ARGV[index])
end

local function base(tag)
  return P .. ':{' .. tag .. '}:'
end

-- The registry of message ids is in parts of a few ids each, which the server stores compactly.
local function part_of(id)
  return P .. ':ids:' .. sub(redis.sha1hex(id), 1, 3)
end

-- Text to compare JSON by: it follows the stored text where the two differ, as for 1.0 and 1.
local function canonical(value)
  local at = string.find(value, '\0', 1, true)
  return at and sub(value, at + 1) or value
end

local function owner_of(session_id)
  local found = call(
    'ZRANGEBYLEX', P .. ':sessions', '[' .. session_id .. '\0', '(' .. session_id .. '\1', 'LIMIT', 0, 1)
  return found[1] and sub(found[1], #session_id + 2)
end

local function keys_of(tag, session_id)
  local b = base(tag)
  return {
    id = session_id, tag = tag, index = b .. 'index',
    key = b .. 's:' .. session_id, order = b .. 'o:' .. session_id, places = b .. 'i:' .. session_id,
  }
end

-- A session of a user, or with an empty tag of any user; nil if there is none.
local function open(tag, session_id)
  if tag == '' then
    tag = owner_of(session_id)
    if not tag then return nil end
  end
  local s = keys_of(tag, session_id)
  local found = call('HMGET', s.key, 'u', 'v')
  if not found[1] then return nil end
  s.updated, s.version = found[1], found[2]
  return s
end

local function has_version(s, expected)
  return expected == '' or s.version == expected
end

local function set_updated(s, moment)
  call('ZADD', s.index, 0, inverse(moment) .. s.id)
  if s.updated and s.updated ~= moment then
    call('ZREM', s.index, inverse(s.updated) .. s.id)
  end
  call('HSET', s.key, 'u', moment)
end

local function changed(s, moment)
  set_updated(s, moment)
  call('HINCRBY', s.key, 'v', 1)
end

-- A member of the order: timestamp, write order, id, NUL, body. The write order is "0", or "1" and 19 digits.
local function place_length(member)
  return sub(member, 19, 19) == '0' and 19 or 38
end

local function id_of(member)
  return sub(member, place_length(member) + 1, string.find(member, '\0', 1, true) - 1)
end

local function body_of(member)
  return sub(member, string.find(member, '\0', 1, true) + 1)
end

local function member_at(s, place, id)
  local first = place .. id
  return call('ZRANGEBYLEX', s.order, '[' .. first .. '\0', '(' .. first .. '\1', 'LIMIT', 0, 1)[1]
end

local function find(s, id)
  local place = call('HGET', s.places, id)
  if place then return member_at(s, place, id), place end
end

local function is_elsewhere(s, id)
  return call('SISMEMBER', part_of(id), id) == 1 and call('HEXISTS', s.places, id) == 0
end

-- Rows are arguments from one on, in fours: id, timestamp or '', body, '1' if the id is new.
-- Returns the numbers of the rows that are not stored; nil if another message has one of the ids.
local function missing(s, first)
  local rows, seen = {}, {}
  for i = first, #ARGV, 4 do
    local id = ARGV[i]
    if seen[id] then return nil end
    seen[id] = true
    local member = find(s, id)
    if member then
      local stored, given = cjson.decode(body_of(member)), cjson.decode(ARGV[i + 2])
      if stored[1] ~= given[1] or stored[2] ~= given[2] then return nil end
    elseif ARGV[i + 3] == '0' and call('SISMEMBER', part_of(id), id) == 1 then
      return nil
    else
      rows[#rows + 1] = i
    end
  end
  return rows
end

local function all_rows(s, first)
  local rows, seen = {}, {}
  for i = first, #ARGV, 4 do
    local id = ARGV[i]
    if seen[id] or is_elsewhere(s, id) then return nil end
    seen[id] = true
    rows[#rows + 1] = i
  end
  return rows
end

local function insert_at(s, place, id, body)
  call('ZADD', s.order, 0, place .. id .. '\0' .. body)
  call('HSET', s.places, id, place)
  call('SADD', part_of(id), id)
end

-- Stores rows, a microsecond apart; returns the moment of the last.
local function insert(s, rows, moment)
  for k = 1, #rows do
    local i = rows[k]
    local written = plus(moment, k - 1)
    local given = ARGV[i + 1]
    insert_at(s, given == '' and written .. '0' or given .. '10' .. written, ARGV[i], ARGV[i + 2])
  end
  return #rows > 0 and plus(moment, #rows - 1) or moment
end

local function remove(s, members)
  for _, member in ipairs(members) do
    local id = id_of(member)
    call('ZREM', s.order, member)
    call('HDEL', s.places, id)
    call('SREM', part_of(id), id)
  end
end

local function clear(s)
  for _, id in ipairs(call('HKEYS', s.places)) do
    call('SREM', part_of(id), id)
  end
  call('DEL', s.order, s.places)
end

-- Deletes a session and its messages; returns how many keys of messages there were.
local function drop(s)
  local count = call('HLEN', s.places)
  clear(s)
  call('DEL', s.key)
  call('ZREM', s.index, inverse(s.updated) .. s.id)
  call('ZREM', P .. ':sessions', s.id .. '\0' .. s.tag)
  if call('EXISTS', s.index) == 0 then
    call('ZREM', P .. ':users', s.tag)
  end
  return count
end

local function register(s)
  call('ZADD', P .. ':sessions', 0, s.id .. '\0' .. s.tag)
  call('ZADD', P .. ':users', 0, s.tag)
end

-- Sets metadata from pairs of arguments.
local function set_metadata(s, first, count)
  for i = first, first + 2 * count - 1, 2 do
    call('HSET', s.key, 'm' .. ARGV[i], ARGV[i + 1])
  end
end

-- Whether pairs of arguments differ from the metadata.
local function differs(s, first, count)
  for i = first, first + 2 * count - 1, 2 do
    local old = call('HGET', s.key, 'm' .. ARGV[i])
    if not old or canonical(old) ~= canonical(ARGV[i + 1]) then return true end
  end
  return false
end

-- The stored keys of metadata that are not among pairs of arguments.
local function others(s, first, count)
  local given, found = {}, {}
  for i = first, first + 2 * count - 1, 2 do given['m' .. ARGV[i]] = true end
  for _, field in ipairs(call('HKEYS', s.key)) do
    if sub(field, 1, 1) == 'm' and not given[field] then found[#found + 1] = field end
  end
  return found
end
