-- The state of a tag is a hash: "g" is its generation, "m:<writer>" until when the mark of a writer counts, and
-- "l" for a session the tag of its owner's lists. A value is a hash: "g" are the generations of its tags, "p" is
-- the payload, "c" how many messages it covers, "v" its version.

local operation, prefix, fresh, life = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function tag_key(tag) return prefix .. 't:' .. tag end
local function value_key(key) return prefix .. 'v:' .. key end

-- A server that is full refuses to store, and takes deletions: without their tag, values are invalid.
local function store(key, ...)
  local reply = redis.pcall('HSET', key, ...)
  if type(reply) == 'table' and reply.err then
    redis.call('DEL', key)
    return false
  end
  return true
end

-- Returns the generation of a tag, whether it has a mark, and whether it could be stored.
local function state_of(tag)
  local key = tag_key(tag)
  local fields = redis.call('HGETALL', key)
  local generation, marked = false, false
  for i = 1, #fields, 2 do
    if fields[i] == 'g' then
      generation = fields[i + 1]
    elseif string.sub(fields[i], 1, 2) == 'm:' then
      if tonumber(fields[i + 1]) > now then marked = true else redis.call('HDEL', key, fields[i]) end
    end
  end
  local stored = true
  if not generation then
    generation = fresh
    stored = store(key, 'g', fresh)
  end
  return generation, marked, stored
end

local function state_from(first)
  local generations, marked, stored = {}, false, true
  for i = first, #ARGV do
    local generation, is_marked, is_stored = state_of(ARGV[i])
    generations[#generations + 1] = generation
    marked = marked or is_marked
    stored = stored and is_stored
  end
  return table.concat(generations), marked, stored
end

local function keep_from(first)
  for i = first, #ARGV do redis.call('PEXPIRE', tag_key(ARGV[i]), life) end
end

local function note(session, lists)
  if session == '' then return end
  local key = tag_key(session)
  if lists == '' then redis.call('HDEL', key, 'l') elseif store(key, 'l', lists) then redis.call('PEXPIRE', key, life) end
end

-- The tag of the lists of a session's owner, who is not named.
local function lists_of(session, otherwise)
  return redis.call('HGET', tag_key(session), 'l') or otherwise
end

if operation == 'look_up' then
  local key, wanted = ARGV[5], ARGV[6]
  local generation, marked, stored = state_from(7)
  if not stored then return 'full' end
  local value = redis.call('HMGET', value_key(key), 'g', 'c', 'p')
  if value[1] == generation and not marked then
    local covers = value[2]
    if covers == '' or (wanted ~= '' and tonumber(wanted) <= tonumber(covers)) then
      return {value[3], generation, 1}
    end
    redis.call('DEL', value_key(key))
  end
  keep_from(7)
  return {false, generation, marked and 0 or 1}
end

if operation == 'fill' then
  local key, expected, payload, covers, version = ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9]
  local milliseconds, session, lists = ARGV[10], ARGV[11], ARGV[12]
  local generation, marked, stored = state_from(13)
  if not stored then return 'full' end
  if marked or generation ~= expected then return 0 end
  local there = redis.call('HMGET', value_key(key), 'g', 'v')
  if there[1] == generation and tonumber(there[2]) >= tonumber(version) then return 0 end
  if not store(value_key(key), 'g', generation, 'p', payload, 'c', covers, 'v', version) then return 'full' end
  redis.call('PEXPIRE', value_key(key), milliseconds)
  note(session, lists)
  return 1
end

if operation == 'begin' then
  local writer, milliseconds, session, otherwise = ARGV[5], tonumber(ARGV[6]), ARGV[7], ARGV[8]
  local tags = {}
  for i = 9, #ARGV do tags[#tags + 1] = ARGV[i] end
  if session ~= '' then tags[#tags + 1] = lists_of(session, otherwise) end
  for _, tag in ipairs(tags) do
    local key = tag_key(tag)
    -- Without a generation, the mark of a tag that was evicted would be of no use.
    local _, _, stored = state_of(tag)
    if stored and store(key, 'm:' .. writer, now + milliseconds) then redis.call('PEXPIRE', key, life) end
  end
  return tags
end

if operation == 'end' then
  local writer, session, otherwise, changed, forgets = ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9]
  local owned, lists = ARGV[10], ARGV[11]
  local tags = {}
  for i = 12, #ARGV do tags[#tags + 1] = ARGV[i] end
  -- Its owner may be known, or be another one, since the write began.
  if session ~= '' then tags[#tags + 1] = lists_of(session, otherwise) end
  for _, tag in ipairs(tags) do
    local key = tag_key(tag)
    if writer ~= '' then redis.call('HDEL', key, 'm:' .. writer) end
    if forgets == '1' then redis.call('HDEL', key, 'l') end
    if changed == '1' and store(key, 'g', fresh) then redis.call('PEXPIRE', key, life) end
  end
  if changed == '1' then note(owned, lists) end
  return 1
end

-- Writes that their process could not tell: pairs of a tag and a writer. Who owns the sessions is not known.
if operation == 'settle' then
  for i = 5, #ARGV, 2 do
    local key = tag_key(ARGV[i])
    redis.call('HDEL', key, 'm:' .. ARGV[i + 1], 'l')
    if store(key, 'g', fresh) then redis.call('PEXPIRE', key, life) end
  end
  return 1
end

-- On each new connection. A server that was promoted, or restarted with what it had on its disk, may have lost
-- what writers told another one, and have kept the values: "r" of the tag of everything is who it was before.
if operation == 'connected' then
  local key, info = tag_key('all'), redis.pcall('INFO', 'server')
  local run = type(info) == 'string' and string.match(info, 'run_id:(%w+)')
  if run and redis.call('HGET', key, 'r') ~= run and store(key, 'g', fresh, 'r', run) then
    redis.call('PEXPIRE', key, life)
  end
  return 1
end

if operation == 'restarted' then
  if store(tag_key('all'), 'g', fresh) then redis.call('PEXPIRE', tag_key('all'), life) end
  return 1
end

return 'PONG'
